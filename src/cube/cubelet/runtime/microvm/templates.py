"""Captured templates: each is booted once, and every sandbox of it begins where that machine was stopped.

The capture lies beside the template's image, so that it is there after a restart of the host, and is removed with it;
what machines map and share blocks with is a copy in the volume, made at the first use.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.runtime.microvm import capture
from cube.cubelet.runtime.microvm.boot.command_line import MACHINE
from cube.cubelet.runtime.microvm.capture import Manifest
from cube.cubelet.runtime.microvm.freezing import Still
from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.cubelet.runtime.microvm.layers import Layers
from cube.cubelet.runtime.microvm.seats import Seat, Seats
from cube.cubelet.runtime.microvm.starter import Started, Starter
from cube.cubelet.runtime.microvm.warming import warm
from cube.cubelet.storage import sparse
from cube.cubelet.storage.volume import Volume
from cube.model.errors import CubeError, HostError, SnapshotDamaged, TemplateNotFound
from cube.model.template import Template
from cube.settings import Settings

log = structlog.get_logger(__name__)

#: Raised whenever a capture that was made before must not be used any more.
_GENERATION: Final = 3
#: Seconds that a guest gets to boot; under emulation it takes four to six on a machine that does nothing else.
_BOOT: Final = 120.0
_FILES: Final = (capture.MEMORY, capture.DEVICES, capture.DISK)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """A capture to start from."""

    directory: Path
    manifest: Manifest


class TemplateCaptures:
    """The captured templates of one node. Use from one event loop."""

    def __init__(self, settings: Settings, volume: Volume, layers: Layers, starter: Starter, seats: Seats) -> None:
        self._directory = settings.templates_dir
        self._cache = volume.cache
        self._volume = volume
        self._layers = layers
        self._starter = starter
        self._seats = seats
        self._ready: dict[str, Source] = {}
        self._making: dict[str, asyncio.Task[Source]] = {}

    async def close(self) -> None:
        """Give up what is being made."""
        for task in self._making.values():
            task.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)

    async def get(self, template: Template, progress: Progress = log.info) -> Source:
        """The capture of a template, made when there is none; whoever else asks meanwhile waits for the same.

        Raises ``TemplateNotFound``, ``StorageFull``, ``HostError``, ``Unsupported``. A caller that is cancelled does
        not end the work, for it will be wanted again.
        """
        key = await self._key(template)
        found = self._ready.get(key)
        if found is not None and (found.directory / capture.MANIFEST).exists():
            return found
        if key not in self._making:
            self._making[key] = asyncio.create_task(self._made(template, key, progress), name=f"capture {key}")
            self._making[key].add_done_callback(lambda _: self._making.pop(key, None))
        return await asyncio.shield(self._making[key])

    async def _key(self, template: Template) -> str:
        boot = await self._starter.boot_files()
        parts = {
            "generation": _GENERATION,
            "boot": boot.fingerprint,
            "command_line": MACHINE,
            "fit": asdict(self._starter.fit(template.resources)),
            "resources": asdict(template.resources),
            "sudo": template.config.sudo_users,
        }
        digest = hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
        return f"{template.template_id}-{digest}"

    async def _made(self, template: Template, key: str, progress: Progress) -> Source:
        copy, original = self._cache / key, self._directory / template.template_id / "vm" / key
        await in_thread(self._clear_gone)
        found = await in_thread(self._usable, copy)
        if found is None:
            if not (self._directory / template.template_id).is_dir():
                raise TemplateNotFound(template.template_id)
            async with _locked(original.parent):
                if await in_thread(self._usable, original) is None:
                    await self._build(template, original, progress)
            found = await in_thread(self._copied, original, copy)
        self._ready[key] = Source(copy, found)
        return self._ready[key]

    def _clear_gone(self) -> None:
        """Remove the copies of templates that are gone; machines that map them do not notice."""
        for path in self._cache.iterdir():
            if not (self._directory / path.name.rpartition("-")[0].removeprefix(".")).is_dir():
                shutil.rmtree(path, ignore_errors=True)

    def _usable(self, directory: Path) -> Manifest | None:
        """The manifest of a capture that is whole; one that is not is removed."""
        try:
            manifest = capture.read(directory)
            if manifest is not None:
                capture.verify(directory, manifest.files)
        except SnapshotDamaged as error:
            log.warning("template.capture_damaged", directory=str(directory), reason=error.message)
            shutil.rmtree(directory, ignore_errors=True)
            return None
        return manifest

    def _copied(self, original: Path, copy: Path) -> Manifest:
        self._volume.require_room()
        _copy(original, copy)
        found = self._usable(copy)
        if found is None:
            raise HostError(f"the capture in {original} could not be copied into the volume")
        return found

    async def _build(self, template: Template, target: Path, progress: Progress) -> None:
        """Boot the template, stop it where it answers, and keep what it then is in ``target``."""
        progress(f"booting {(*template.names, template.template_id)[0]} for the first time")
        seat = await self._seats.acquire(template.resources)
        name = f"build{seat.index}"
        try:
            layer = await in_thread(self._layers.make, name, template.resources, None)
            await in_thread(_format, layer / capture.DISK)
            manifest = await self._booted(template, seat, layer, progress)
            await in_thread(_complete, layer, manifest, target)
        finally:
            await asyncio.shield(self._clear(seat, name))

    async def _booted(self, template: Template, seat: Seat, layer: Path, progress: Progress) -> Manifest:
        started = await self._starter.boot(seat, template, template.resources, layer)
        try:
            contexts = await self._warm(template, seat, started)
            progress("capturing its memory")
            await started.vmm.stop()
            size = template.resources.memory_mb << 20
            still = await in_thread(Still, started.vmm, started.base, size)
            await in_thread(self._layers.require_room, still.bytes_to_write)
            await still.take(layer, name=f"{capture.MEMORY}.new")
        finally:
            await asyncio.shield(started.vmm.kill())
        await in_thread(os.replace, layer / f"{capture.MEMORY}.new", layer / capture.MEMORY)
        boot = await self._starter.boot_files()
        files = await in_thread(capture.marks, layer, memory=True)
        fit = self._starter.fit(template.resources)
        return Manifest(template.template_id, files, fit, boot.fingerprint, contexts=contexts)

    async def _warm(self, template: Template, seat: Seat, started: Started) -> dict[str, Any] | None:
        """Until it answers and its interpreter, if it has one, is there."""
        await started.vmm.cont()
        guest = await MicroVMGuest.connect(self._starter.doors(seat).control, seat.name, seconds=_BOOT)
        contexts = await warm(guest, template)
        return None if contexts is None else dict(contexts)

    async def _clear(self, seat: Seat, name: str) -> None:
        try:
            await self._starter.free(seat)
        except CubeError as error:
            log.warning("template.capture_leftover", seat=seat.index, reason=error.message)
        await in_thread(self._volume.remove, name)


def _format(disk: Path) -> None:
    """Make the file system of a writable layer. Without a journal: a crash of the machine ends its sandboxes anyway."""
    command = [
        "mkfs.ext4",
        "-q",
        "-F",
        "-m",
        "0",
        "-O",
        "^has_journal",
        "-E",
        "lazy_itable_init=0,nodiscard",
        str(disk),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise HostError("mkfs.ext4 is not installed: apt-get install e2fsprogs") from error
    if done.returncode != 0:
        raise HostError(f"mkfs.ext4 failed: {done.stderr.strip()[-300:]}")


def _complete(layer: Path, manifest: Manifest, target: Path) -> None:
    """Put the files of a capture where they stay, all of them or nothing."""
    capture.write(layer, manifest)
    _copy(layer, target)
    for other in target.parent.iterdir():
        if other.is_dir() and other != target:
            shutil.rmtree(other, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a capture into a new directory, the manifest last. Raises ``HostError``."""
    unfinished = target.with_name(f".{target.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True, mode=0o700)
        for name in _FILES:
            _copy_file(source / name, unfinished / name)
        shutil.copyfile(source / capture.MANIFEST, unfinished / capture.MANIFEST)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise HostError(f"a capture could not be copied to {target}: {error.strerror}") from error


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        # QEMU's user reads the memory file, through the mount of its jail alone.
        os.fchmod(writer.fileno(), 0o444 if target.name == capture.MEMORY else 0o600)
        sparse.clone(reader.fileno(), writer.fileno())
        os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.asynccontextmanager
async def _locked(directory: Path) -> AsyncIterator[None]:
    """While another process builds for the same templates, wait."""
    lock = await in_thread(_lock, directory)
    try:
        yield
    finally:
        os.close(lock)


def _lock(directory: Path) -> int:
    directory.mkdir(exist_ok=True, mode=0o700)
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle
