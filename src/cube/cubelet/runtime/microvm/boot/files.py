"""Kernel and initramfs as files, made once and kept by what they are made of."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cube.cubelet.runtime.container.binary import find_cube_init
from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.runtime.microvm.boot.initramfs import initramfs
from cube.cubelet.runtime.microvm.boot.modules import modules
from cube.cubelet.runtime.microvm.boot.sources import KernelSource, Report, find_kernel
from cube.cubelet.runtime.microvm.boot.vmlinux import vmlinux
from cube.settings import Settings

#: Changed when the same ingredients make other files.
_RECIPE = "1"
#: Sets of files that are kept: the one in use, and those of versions that may be gone back to.
_KEPT = 3


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What QEMU is given to boot a guest."""

    kernel: Path
    initramfs: Path
    fingerprint: str

    @classmethod
    async def ensure(cls, settings: Settings, report: Report = lambda message: None) -> BootFiles:
        """Make the files unless they are there; ``report`` is told what takes time. Any number of processes may ask.

        Raises ``HostError``.
        """
        place = settings.state_dir / "boot"
        place.mkdir(parents=True, exist_ok=True)
        async with _locked(place / "lock"):
            source = await find_kernel(settings, report)
            return await in_thread(_ensure, place, source, report)


def _ensure(place: Path, source: KernelSource, report: Report) -> BootFiles:
    cube_init, packed = find_cube_init().read_bytes(), source.kernel.read_bytes()
    directory = place / _fingerprint(cube_init, packed, source)
    if not directory.is_dir():
        report(f"preparing {source.kernel.name} for virtual machines")
        _make(directory, cube_init, packed, source)
        _forget_old(place, directory)
    return BootFiles(directory / "kernel", directory / "initramfs", directory.name)


def _make(directory: Path, cube_init: bytes, packed: bytes, source: KernelSource) -> None:
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    (partial / "kernel").write_bytes(vmlinux(packed))
    loaded = modules(source.modules) if source.modules is not None else []
    (partial / "initramfs").write_bytes(initramfs(cube_init, loaded))
    partial.rename(directory)


def _fingerprint(cube_init: bytes, packed: bytes, source: KernelSource) -> str:
    """Modules belong to their kernel, so what they depend on says enough about them."""
    known = b"" if source.modules is None else (source.modules / "modules.dep").read_bytes()
    digest = hashlib.sha256(_RECIPE.encode())
    for part in (cube_init, packed, known):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:24]


def _forget_old(place: Path, current: Path) -> None:
    made = [path.parent for path in place.glob("*/initramfs") if path.parent != current]
    made.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in made[_KEPT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """One process at a time; waiting for it ends when the caller is cancelled."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(0.1)
            else:
                break
        yield
