"""The inside of a microVM: its relay as an ordinary process, and whole guests that have booted."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from support.descriptors import open_fds
from support.kernel_env import kernel_environment
from support.relay_ground import RelayGround, relay_ground

ROOT = Path(__file__).parents[6]


@pytest.fixture(scope="session")
def cube_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sources of this checkout."""
    build = tmp_path_factory.mktemp("cube-init")
    source = str(ROOT / "native" / "cube-init")
    subprocess.run(["make", "--silent", "-C", source, f"BUILD={build}"], check=True)
    return build / "cube-init"


@pytest.fixture
async def ground(cube_init: Path, tmp_path: Path) -> AsyncIterator[RelayGround]:
    """A relay before a process 1. Afterwards no descriptor of the host's may be left."""
    before = open_fds()
    async with relay_ground(cube_init, tmp_path) as made:
        yield made
    assert open_fds().keys() == before.keys()


@pytest.fixture
async def guest(ground: RelayGround) -> AsyncIterator[MicroVMGuest]:
    """Connected, and with its identity."""
    made = await ground.connect()
    yield made
    await made.close()


@pytest.fixture(scope="session")
def kernel_env() -> Path:
    """A virtual environment with what a code interpreter image has."""
    return kernel_environment()
