"""What a machine has in the volume: one subvolume with its disk, and where it is paused, with its memory.

The layer of a sandbox is called after it. One that nothing runs in says by its manifest what it is: paused where the
manifest speaks of memory, stopped where it does not; without a manifest it is what a crash has left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cube.cubelet.runtime.microvm import capture
from cube.cubelet.storage import sparse
from cube.cubelet.storage.volume import Volume
from cube.model.errors import SnapshotDamaged, StorageFull
from cube.model.resources import Resources

#: MiB beyond the files, for the file system's own records and the state of the devices.
_SLACK_MB: Final = 256
#: What QEMU's user may do with a memory file: read it. It is reached through the jail's mount alone.
_READABLE: Final = 0o444


class Layers:
    """The layers of one node's machines. Calls block, see :class:`~cube.cubelet.storage.volume.Volume`."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def make(self, name: str, resources: Resources, disk: Path | None) -> Path:
        """A new layer with a copy of a disk that shares its blocks, or an empty file system.

        Raises ``StorageFull``, ``SnapshotDamaged`` when the disk is gone.
        """
        directory = self.make_empty(name, resources)
        try:
            with _new_file(directory / capture.DISK, 0o600) as target:
                if disk is None:
                    os.ftruncate(target, resources.disk_mb << 20)
                else:
                    copy_into(disk, target)
        except BaseException:
            self._volume.remove(name)
            raise
        return directory

    def make_empty(self, name: str, resources: Resources) -> Path:
        """A new layer without any file. Raises ``StorageFull``."""
        return self._volume.directory(name, limit_mb=_limit(resources))

    def path(self, name: str) -> Path:
        """The directory of a layer that is there; raises ``SandboxNotFound``."""
        return self._volume.directory_of(name)

    def require_room(self, size: int) -> None:
        """Raise ``StorageFull`` unless so many bytes can be written and some are left."""
        if self._volume.room() < size + (_SLACK_MB << 20):
            raise StorageFull(
                f"the node has no room for {size >> 20} MiB of memory: "
                "end sandboxes, delete snapshots, or free some space"
            )


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A captured file, or a copy of one, opened for the block; raises ``SnapshotDamaged`` when it is gone."""
    try:
        handle = os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise SnapshotDamaged(f"the captured {path.name} is gone") from error
    try:
        yield handle
    finally:
        os.close(handle)


def copy_into(source: Path, target: int) -> None:
    """Share the blocks of a captured file with an empty one; raises ``SnapshotDamaged`` when it is gone."""
    with opened(source, os.O_RDONLY) as handle:
        sparse.clone(handle, target)


def empty_memory(directory: Path, resources: Resources) -> Path:
    """A memory file for a machine that boots: nothing but a hole."""
    path = directory / capture.MEMORY
    path.unlink(missing_ok=True)
    with _new_file(path, _READABLE) as file:
        os.ftruncate(file, resources.memory_mb << 20)
    return path


@contextmanager
def _new_file(path: Path, mode: int) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(file, mode)
        yield file
    finally:
        os.close(file)


@contextmanager
def new_memory(path: Path) -> Iterator[int]:
    """A file for captured memory, which must not be there yet."""
    with _new_file(path, _READABLE) as file:
        yield file


def _limit(resources: Resources) -> int:
    """MiB that a layer may grow to: the disk, and while a machine is paused again its memory twice."""
    return resources.disk_mb + 2 * resources.memory_mb + _SLACK_MB
