"""A real QEMU in its jail, and a place on this machine to start machines in."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.cubelet.runtime.container.launcher import Launcher
from cube.cubelet.runtime.microvm import emulator
from cube.cubelet.runtime.microvm.emulator import Emulator
from cube.settings import Settings
from support.vm_yard import MACHINE, UID, Yard

NATIVE = Path(__file__).parents[5] / "native"


@pytest.fixture(scope="session")
def cube_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher, built from the sources of this checkout."""
    build = tmp_path_factory.mktemp("cube-init")
    subprocess.run(["make", "--silent", "-C", str(NATIVE / "cube-init"), f"BUILD={build}"], check=True)
    return build / "cube-init"


@pytest.fixture(scope="session")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    """QEMU's tree, with the guard of this checkout."""
    directory = tmp_path_factory.mktemp("emulator")
    build = directory / "guard"
    subprocess.run(["make", "--silent", "-C", str(NATIVE / "vmm-guard"), f"BUILD={build}"], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBE_VMM_GUARD", str(build / "vmm-guard.so"))
        return asyncio.run(emulator.prepare(Settings(state_dir=directory, run_dir=directory / "run")))


@pytest.fixture
async def launcher(cube_init: Path) -> AsyncIterator[Launcher]:
    """A launcher that runs."""
    running = Launcher()
    await running.start(cube_init)
    yield running
    await running.close()


@pytest.fixture
async def yard(launcher: Launcher, qemu: Emulator, tmp_path: Path) -> AsyncIterator[Yard]:
    """Files of a machine with 64 MiB of memory, all of them empty."""
    (tmp_path / "stage").mkdir()
    for name, size in (("memory", MACHINE.memory_mb << 20), ("image", 1 << 20), ("layer", 1 << 20)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    (tmp_path / "memory").chmod(0o444)
    namespace = await launcher.userns(UID, 1)
    made = Yard(tmp_path, launcher, qemu, namespace)
    yield made
    for machine in made.started:
        await machine.kill()
    os.close(namespace)
