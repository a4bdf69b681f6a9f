"""Kernel and initramfs are made once, and made again when they would come out differently."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cube.cubelet.runtime.microvm.boot import BootFiles, command_line, files
from cube.cubelet.runtime.microvm.boot.command_line import host_tsc_khz
from cube.model.errors import HostError
from cube.settings import Settings

ELF = b"\x7fELF own kernel"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "kernel").write_bytes(ELF)
    (tmp_path / "cube-init").write_bytes(b"program")
    monkeypatch.setenv("CUBE_INIT", str(tmp_path / "cube-init"))
    return Settings(state_dir=tmp_path / "state", run_dir=tmp_path / "run", vm_kernel=str(tmp_path / "kernel"))


async def test_an_own_kernel_is_booted_as_it_is(settings: Settings) -> None:
    said: list[str] = []
    made = await BootFiles.ensure(settings, said.append)
    assert made.kernel.read_bytes() == ELF
    assert b"program" in made.initramfs.read_bytes()
    assert said == ["preparing kernel for virtual machines"]


async def test_they_are_made_once(settings: Settings) -> None:
    first = await BootFiles.ensure(settings)
    before = first.kernel.stat().st_mtime_ns
    said: list[str] = []
    assert await BootFiles.ensure(settings, said.append) == first
    assert (first.kernel.stat().st_mtime_ns, said) == (before, [])


async def test_another_kernel_or_program_makes_others(settings: Settings, tmp_path: Path) -> None:
    made = [await BootFiles.ensure(settings)]
    (tmp_path / "cube-init").write_bytes(b"another")
    made.append(await BootFiles.ensure(settings))
    (tmp_path / "kernel").write_bytes(ELF + b"2")
    made.append(await BootFiles.ensure(settings))
    assert len({one.fingerprint for one in made}) == 3
    assert all(one.kernel.exists() for one in made)


async def test_only_some_are_kept(settings: Settings, tmp_path: Path) -> None:
    made = []
    for number in range(files._KEPT + 2):
        (tmp_path / "cube-init").write_bytes(b"%d" % number)
        one = await BootFiles.ensure(settings)
        os.utime(one.kernel.parent, (number, number))
        made.append(one)
    assert [one.kernel.exists() for one in made] == [False, False, True, True, True]


async def test_what_an_interrupted_run_left_is_replaced(settings: Settings) -> None:
    made = await BootFiles.ensure(settings)
    directory = made.kernel.parent
    directory.rename(directory.with_name(directory.name + ".partial"))
    (directory.with_name(directory.name + ".partial") / "kernel").unlink()
    assert (await BootFiles.ensure(settings)).kernel.read_bytes() == ELF


@pytest.mark.parametrize(
    ("name", "value"), [("vm_kernel", "/nowhere"), ("vm_kernel", "/"), ("vm_modules", "/nowhere"), ("vm_modules", "/")]
)
async def test_a_setting_that_leads_nowhere_is_named(settings: Settings, name: str, value: str) -> None:
    with pytest.raises(HostError, match=f"CUBE_{name.upper()}"):
        await BootFiles.ensure(settings.model_copy(update={name: value}))


def test_the_command_line_has_what_was_asked_for() -> None:
    words = command_line(sudo_uids=(1000, 1001), pids=5, open_files=9, console="ttyS0", tsc_khz=77).split()
    assert {"cube.sudo=1000,1001", "cube.pids=5", "cube.files=9", "console=ttyS0", "tsc_early_khz=77"} <= set(words)
    assert not [word for word in command_line().split() if word.startswith("cube.")]


def test_the_rate_of_the_counter(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\ncpu MHz\t\t: 2445.404\n\nprocessor\t: 1\ncpu MHz : 1\n")
    assert host_tsc_khz(tmp_path / "cpuinfo") == 2445404
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n")
    assert host_tsc_khz(tmp_path / "cpuinfo") == 1_000_000
