"""A real ``cube-init``, and a place on this machine to start sandboxes in."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.cubelet.runtime.container.launcher import Launcher
from support.descriptors import open_fds
from support.inside_sandbox import Inside, inside

_SOURCE = Path(__file__).parents[5] / "native" / "cube-init"


@pytest.fixture(scope="session")
def cube_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built from the sources of this checkout."""
    build = tmp_path_factory.mktemp("cube-init")
    subprocess.run(["make", "--silent", "-C", str(_SOURCE), f"BUILD={build}"], check=True)
    return build / "cube-init"


@pytest.fixture
async def launcher(cube_init: Path) -> AsyncIterator[Launcher]:
    """A launcher that runs."""
    running = Launcher()
    await running.start(cube_init)
    yield running
    await running.close()


@pytest.fixture
async def box(launcher: Launcher, tmp_path: Path, cube_init: Path) -> AsyncIterator[Inside]:
    """A running sandbox with the users ``user`` and ``other``; no descriptor stays open on the host."""
    before = open_fds()
    async with inside(launcher, tmp_path, cube_init) as made:
        yield made
    assert not open_fds().items() - before.items()
