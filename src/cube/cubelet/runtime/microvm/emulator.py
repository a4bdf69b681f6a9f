"""Which QEMU there is, and the tree that its processes have as their root: the program, its libraries and firmware.

The tree is a copy, so an upgrade of the machine's packages changes nothing under a service that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cube.cubelet.runtime.microvm import command
from cube.cubelet.runtime.microvm.guard import find_guard
from cube.model.errors import HostError, Unsupported
from cube.settings import Settings

NAME: Final = "qemu-system-x86_64"
_INSTALL: Final = "apt-get install qemu-system-x86"
_VERSION: Final = re.compile(r"version (\S+(?: \([^)]*\))?)")
_LIBRARY: Final = re.compile(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)")
#: What the machine `microvm` loads: its BIOS, and what starts a kernel that is given on the command line.
_FIRMWARE: Final = ("bios-microvm.bin", "pvh.bin", "linuxboot_dma.bin")
#: Distributions build the emulation of the processor as a module of its own.
_MODULE: Final = "accel-tcg-x86_64.so"
_MODULE_PLACES: Final = ("/usr/lib/x86_64-linux-gnu/qemu", "/usr/lib64/qemu", "/usr/lib/qemu")
_FIRMWARE_PLACES: Final = ("/usr/share/qemu", "/usr/share/seabios", "/usr/share/qemu-kvm")


@dataclass(frozen=True, slots=True)
class Emulator:
    """A QEMU, ready to be started."""

    #: As QEMU says it, packaging included: a state fits into the version that wrote it alone.
    version: str
    #: Root of its processes, read-only to them.
    tree: Path


def find_program() -> Path:
    """QEMU's program; raises ``Unsupported`` when there is none."""
    found = shutil.which(NAME)
    if found is None:
        raise Unsupported(f"{NAME} is not installed: {_INSTALL}")
    return Path(found)


def version_of(program: Path) -> str:
    """What a QEMU calls itself; raises ``HostError``. Blocks for 30 ms."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{program} cannot be executed: {error}") from error
    found = _VERSION.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise HostError(f"{program} does not say its version: {done.stderr.strip()[-300:]}")
    return found.group(1)


async def prepare(settings: Settings) -> Emulator:
    """The emulator of this machine; its tree is made when it is missing. Raises ``Unsupported``, ``HostError``."""
    return await asyncio.to_thread(_prepare, settings.state_dir / "vm" / "emulator")


def _prepare(directory: Path) -> Emulator:
    program = find_program()
    version, files = version_of(program), dict(_files(program))
    tree = directory / _fingerprint(version, files)
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    with _locked(directory):
        if not tree.is_dir():
            _remove_others(directory)
            _build(tree, files)
    return Emulator(version, tree)


def _files(program: Path) -> Iterator[tuple[str, Path]]:
    """Path in the tree and on the host, of everything that QEMU needs."""
    yield command.PROGRAM, program
    yield command.GUARD, find_guard()
    modules = [path for place in _MODULE_PLACES if (path := Path(place, _MODULE)).is_file()]
    for module in modules[:1]:
        yield f"{command.MODULES}/{_MODULE}", module
    for library in _libraries([program, *modules[:1]]):
        # The loader stands where the program asks for it, all others in one place.
        loader = library.name.startswith("ld-")
        yield (str(library) if loader else f"{command.LIBRARIES}/{library.name}"), library
    for name in _FIRMWARE:
        yield f"{command.FIRMWARE}/{name}", _firmware(name)


def _libraries(programs: list[Path]) -> set[Path]:
    found: set[Path] = set()
    for program in programs:
        done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False, timeout=30)
        if done.returncode != 0:
            raise HostError(f"the libraries of {program} cannot be told: {done.stderr.strip()[-300:]}")
        found |= {Path(match) for match in _LIBRARY.findall(done.stdout)}
    return found


def _firmware(name: str) -> Path:
    for place in _FIRMWARE_PLACES:
        path = Path(place, name)
        if path.is_file():
            return path
    raise HostError(f"QEMU's {name} is missing: {_INSTALL}")


def _fingerprint(version: str, files: dict[str, Path]) -> str:
    seen = hashlib.sha256(version.encode())
    for target, source in sorted(files.items()):
        status = source.stat()
        seen.update(f"{target}\0{source}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return seen.hexdigest()[:24]


def _build(tree: Path, files: dict[str, Path]) -> None:
    """All of it or nothing."""
    unfinished = tree.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    for target, source in files.items():
        path = unfinished / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        path.chmod(0o555)
    for place in (command.MEMORY, command.KERNEL, command.INITRAMFS):
        path = unfinished / place.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o444)
    (unfinished / "dev").mkdir()
    for directory in (unfinished, *(path for path in unfinished.rglob("*") if path.is_dir())):
        directory.chmod(0o755)
    unfinished.rename(tree)


def _remove_others(directory: Path) -> None:
    """Trees of other versions; a process that still runs from one keeps what it has open and mapped."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
