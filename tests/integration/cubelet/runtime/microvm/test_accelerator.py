"""KVM is believed when a guest has booted with it, and the answer is remembered as long as nothing has changed."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from cube.cubelet.cgroups.events import poll_until
from cube.cubelet.runtime.microvm import accelerator, emulator
from cube.cubelet.runtime.microvm.accelerator import Verdict
from cube.cubelet.runtime.microvm.boot.files import BootFiles
from cube.cubelet.runtime.microvm.boot.sources import downloads, find_kernel
from cube.settings import Settings
from support.launch_ground import exists
from support.vm_node import keep_between_runs

#: What the guest's kernel says when it has come so far that it misses its root file system.
ALIVE = "[ 0.9] Kernel panic - not syncing: VFS: Unable to mount root fs"


class Machine:
    """A machine with a KVM device and a QEMU that are the test's."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = Settings(state_dir=directory / "state", run_dir=directory / "run")
        self.calls = directory / "calls"
        self.device = directory / "kvm"
        self.device.touch()
        self.program = directory / emulator.NAME
        self.kernel = directory / "kernel"
        self.kernel.touch()
        self.version("7.2.0")
        monkeypatch.setattr(accelerator, "DEVICE", self.device)
        monkeypatch.setattr(shutil, "which", lambda name: str(self.program))
        monkeypatch.setenv("CUBE_GUEST_KERNEL", str(self.kernel))

    def version(self, number: str, does: str = f"echo '{ALIVE}'") -> None:
        """Be a QEMU of this version, which does this when it is started."""
        asked = f'[ "$1" = --version ] && {{ echo "QEMU emulator version {number} (Test)"; exit; }}'
        self.program.write_text(f"#!/bin/sh\n{asked}\necho >> {self.calls}\n{does}\n")
        self.program.chmod(0o755)

    @property
    def boots(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


async def test_a_guest_that_boots_is_seen_and_remembered(machine: Machine) -> None:
    assert accelerator.remembered(machine.settings).boots is None
    found = await accelerator.find_out(machine.settings)
    assert found.boots
    assert found.accelerator == "kvm"
    assert accelerator.remembered(machine.settings) == found
    assert machine.boots == 1


async def test_a_guest_that_hangs_is_given_up(machine: Machine) -> None:
    """An emulator that prints the loader's last line and then hangs, as stock kernels do on some hosts."""
    machine.version("7.2.0", "echo 'Booting from ROM...'; exec sleep 60")
    found = await accelerator.boot(str(machine.program), machine.kernel, "kvm", patience=0.3)
    assert (found.boots, found.accelerator) == (False, "tcg")
    assert "Booting from ROM" in found.reason


async def test_a_bad_answer_is_remembered_too(machine: Machine) -> None:
    machine.version("7.2.0", "echo 'MSR 0x10a'; exit 1")
    found = await accelerator.find_out(machine.settings)
    assert not found.boots
    assert "its last words: MSR 0x10a" in found.reason
    assert accelerator.remembered(machine.settings) == found


@pytest.mark.parametrize("change", ["version", "kernel"])
async def test_another_qemu_or_kernel_is_another_question(machine: Machine, change: str) -> None:
    await accelerator.find_out(machine.settings)
    if change == "version":
        machine.version("7.2.1")
    else:
        machine.kernel.write_text("another")
    assert accelerator.remembered(machine.settings).boots is None


async def test_without_the_device_nothing_is_started(machine: Machine) -> None:
    await accelerator.find_out(machine.settings)
    machine.device.unlink()
    for verdict in (accelerator.remembered(machine.settings), await accelerator.find_out(machine.settings)):
        assert verdict == Verdict(False, f"there is no {machine.device}")
    assert machine.boots == 1


async def test_a_memory_that_makes_no_sense_is_no_answer(machine: Machine) -> None:
    await accelerator.find_out(machine.settings)
    (machine.settings.state_dir / "vm" / "accelerator.json").write_text("[1]")
    assert accelerator.remembered(machine.settings).boots is None


@pytest.mark.root
async def test_the_machine_of_the_probe_boots_where_nothing_is_accelerated(tmp_path: Path) -> None:
    """The same command with emulation: a stock kernel comes as far as it should."""
    keep_between_runs(tmp_path)
    program = shutil.which(emulator.NAME)
    assert program is not None
    settings = Settings(state_dir=tmp_path)
    await BootFiles.ensure(settings)  # one at a time may fetch it
    source = await find_kernel(settings, print)
    assert (await accelerator.boot(program, source.kernel, "tcg", patience=60)).boots


async def test_a_kernel_that_was_downloaded_is_tried_too(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBE_GUEST_KERNEL")
    fetched = downloads(machine.settings) / "boot" / "vmlinuz-6.1.0-1-cloud-amd64"
    fetched.parent.mkdir(parents=True)
    fetched.touch()
    assert accelerator.guest_kernel(machine.settings) == fetched
    assert (await accelerator.find_out(machine.settings)).boots


async def test_a_probe_that_is_cancelled_leaves_no_guest(machine: Machine) -> None:
    pid = machine.calls.with_name("pid")
    machine.version("7.2.0", f"echo $$ > {pid}; exec sleep 60")
    probing = asyncio.create_task(accelerator.find_out(machine.settings))
    assert await poll_until(lambda: pid.exists() and pid.read_text().endswith("\n"), 20)
    probing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probing
    assert not exists(int(pid.read_text()))
