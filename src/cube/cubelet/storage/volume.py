"""The volume of writable layers: one sparse file with btrfs inside, one subvolume with a quota per sandbox or snapshot.

btrfs is chosen because a subvolume with an enforced size costs two ioctls (0.05 ms together), is removed by one, and
can be captured by a snapshot; quotas of ext4 and XFS are missing in many kernels. The file keeps this independent of
what the host's own file system is.

The root directory of a layer, which no sandbox sees, belongs to the host id of the sandbox's root that it was made for.
Snapshots and their clones inherit it, so each layer tells which ids its files have.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cube.cubelet.storage import backing, btrfs, mounts
from cube.cubelet.storage.subvolumes import QuotaGroups, Subvolumes, storage_error
from cube.model.errors import Conflict, HostError, InvalidInput, SandboxNotFound, SnapshotNotFound, StorageFull
from cube.model.ids import is_sandbox_id

if TYPE_CHECKING:  # a helper has no use for all that settings bring along
    from cube.settings import Settings

_MIB = 1 << 20
_SNAPSHOT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
#: What is kept free, and at most which part of the volume: btrfs needs room for its own records, and a file that cannot
#: grow any more turns the whole volume read-only.
_RESERVE = 512 * _MIB
_RESERVED_PART = 16
#: How long a look at the free space is good for, in seconds.
_ROOM_SEEN_S = 0.5


@dataclass(frozen=True, slots=True)
class Layer:
    """Directories for an overlay: what the sandbox writes, and the overlay's own scratch space beside it."""

    upper: Path
    work: Path


class Volume:
    """Writable layers of one node. Calls block for well under a millisecond, but wait while the kernel commits a
    transaction: use them from a thread. They may run at the same time for different sandboxes."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.volume_dir
        self._image = settings.state_dir / "volume.img"
        self._bytes = settings.volume_gb << 30
        self._groups = QuotaGroups(self._root)
        self._layers = Subvolumes(self._root / "layers", self._groups)
        self._snapshots = Subvolumes(self._root / "snapshots", self._groups)
        #: Volumes of clients, which :mod:`cube.cubelet.volumes` looks after.
        self._volumes = Subvolumes(volumes_directory(settings), self._groups)
        #: For files that can be made again: captured templates, beside the layers that share their blocks.
        self.cache = self._root / "cache"
        self._room_seen_at = 0.0

    # -- the volume itself ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Mount the volume, made on first use and grown when the setting grew; adopts one that is mounted already.

        Raises ``HostError`` when the machine cannot: no btrfs, no loop devices, no space.
        """
        try:
            backing.mount_volume(self._image, self._root, self._bytes)
            self._prepare()
        except OSError as error:
            raise HostError(f"the volume of writable layers could not be opened: {error}") from error
        self.sweep()

    def _prepare(self) -> None:
        os.chmod(self._root, 0o700)
        self.cache.mkdir(exist_ok=True, mode=0o700)
        self._groups.open()
        self._layers.open()
        self._snapshots.open()
        self._volumes.open()
        kept = self._layers.ids() | self._snapshots.ids() | self._volumes.ids()
        self._groups.bury(*(self._groups.all() - kept))

    def close(self) -> None:
        """Unmount; the loop device goes with it. Succeeds when nothing is mounted, raises ``Conflict`` when in use."""
        self._layers.close()
        self._snapshots.close()
        while mounts.find(self._root) is not None:
            try:
                mounts.umount(self._root)
            except OSError as error:
                raise Conflict(f"{self._root} is still in use: end what works in it, then try again") from error

    def discard(self) -> None:
        """Unmount, and remove the file unless snapshots or clients' volumes are in it.

        Raises ``Conflict`` when it is in use.
        """
        mounted = mounts.find(self._root) is not None
        empty = mounted and not self._snapshots.names() and not self._volumes.names()
        self.close()
        if empty:
            self._image.unlink(missing_ok=True)
            self._root.rmdir()

    def sweep(self) -> int:
        """Remove quota groups of subvolumes that are gone; returns how many. For a housekeeping task."""
        return self._groups.sweep()

    def room(self) -> int:
        """Bytes that layers can still take, by the volume and by the file system that its file lies on."""
        spaces = os.statvfs(self._root), os.statvfs(self._image)
        return min(space.f_bavail * space.f_frsize for space in spaces)

    def require_room(self) -> None:
        """Raise ``StorageFull`` when so little is left that new layers would endanger those that are there."""
        now = time.monotonic()
        if now - self._room_seen_at < _ROOM_SEEN_S:
            return
        total = os.statvfs(self._root)
        if self.room() < min(_RESERVE, total.f_blocks * total.f_frsize // _RESERVED_PART):
            raise StorageFull(
                "the node has no room left for writable layers: end sandboxes, delete snapshots, or free some space"
            )
        self._room_seen_at = now

    # -- layers --------------------------------------------------------------------------------------------------

    def layer(self, name: str, *, owner: int, disk_mb: int) -> Layer:
        """Make an empty layer, limited to ``disk_mb`` MiB and owned by host user and group ``owner``.

        Raises ``Conflict`` when it exists, ``StorageFull`` when the volume is full.
        """
        path = self._path(name)
        self._make(name, lambda: self._create(name, owner, disk_mb * _MIB))
        return Layer(path / "upper", path / "work")

    def directory(self, name: str, *, limit_mb: int) -> Path:
        """Make a layer that is a plain directory of the host's, for a machine's files. Raises like :meth:`layer`."""
        self._make(name, lambda: self._create_plain(name, 0, limit_mb * _MIB))
        return self._layers.path(name)

    def directory_of(self, name: str) -> Path:
        """Where the plain layer is that :meth:`directory` has made; raises ``SandboxNotFound`` without one."""
        self.existing(name)
        return self._layers.path(name)

    def _make(self, name: str, create: Callable[[], None]) -> None:
        self._path(name)
        try:
            create()
        except FileExistsError:
            raise Conflict(f"there is a writable layer {name!r} already") from None
        except OSError as error:
            self.remove(name)
            raise storage_error(error, "the writable layer could not be made") from error

    def _create_plain(self, name: str, owner: int, limit: int) -> None:
        with self._layers.created(name) as fd:
            _dedicate(fd, owner, limit)

    def _create(self, name: str, owner: int, limit: int) -> None:
        with self._layers.created(name) as fd:
            _furnish(fd, owner, limit)

    @property
    def layers_directory(self) -> Path:
        """Where layers are, for :func:`make_layer`."""
        return self._layers.directory

    def learn(self, name: str, subvolume: int) -> None:
        """Know of a layer that :func:`make_layer` has made in another process."""
        self._path(name)
        self._layers.learn(name, subvolume)

    def clone(self, snapshot_id: str, name: str, *, disk_mb: int) -> Layer:
        """Make a layer that begins with what a snapshot holds, of which ``disk_mb`` MiB more can be written.

        Raises ``SnapshotNotFound``, ``Conflict`` when the layer exists, ``StorageFull``.
        """
        path, source = self._path(name), self._snapshot_path(snapshot_id)
        try:
            self._layers.snapshot(name, source, read_only=False)
        except FileNotFoundError:
            raise SnapshotNotFound(snapshot_id) from None
        except FileExistsError:
            raise Conflict(f"there is a writable layer {name!r} already") from None
        except OSError as error:
            raise storage_error(error, "the snapshot could not be used") from error
        try:
            self._layers.limit(name, disk_mb * _MIB)
        except OSError as error:
            self.remove(name)
            raise storage_error(error, "the snapshot could not be used") from error
        return Layer(path / "upper", path / "work")

    def clear_work(self, name: str) -> None:
        """Make the scratch space of a layer anew, as an overlay needs it that is mounted on what another has left.

        Raises ``OSError``; it can then be repeated.
        """
        owner = self.owner(name)
        with btrfs.directory(self._layers.path(name)) as fd:
            with suppress(FileNotFoundError):  # the last time there was no room for a new one
                shutil.rmtree("work", dir_fd=fd)
            os.mkdir("work", 0o755, dir_fd=fd)
            os.chown("work", owner, owner, dir_fd=fd, follow_symlinks=False)

    def limit(self, name: str, disk_mb: int) -> None:
        """Give a layer another size limit, in MiB; raises ``SandboxNotFound`` without one."""
        self.existing(name)
        self._layers.limit(name, disk_mb * _MIB)

    def existing(self, name: str) -> Layer:
        """A layer that was made before; raises ``SandboxNotFound`` without one."""
        path = self._path(name)
        if name not in self._layers:
            raise SandboxNotFound(name)
        return Layer(path / "upper", path / "work")

    def owner(self, name: str) -> int:
        """Host id that files of the sandbox's root have in a layer; raises ``SandboxNotFound`` without one."""
        self.existing(name)
        return os.stat(self._layers.path(name)).st_uid

    def rename(self, old: str, new: str) -> None:
        """Give a layer another name instead of whatever has that; raises ``SandboxNotFound`` without one.

        A crash in the middle leaves the layer under its old name and nothing under the new one, and so does a volume
        without room (``StorageFull``).
        """
        self.existing(old)
        self.remove(new)
        try:
            self._layers.rename(old, new)
        except OSError as error:
            raise storage_error(error, "the writable layer could not be kept") from error

    def remove(self, name: str) -> None:
        """Remove a layer with everything in it; succeeds when there is none. Blocks are freed in the background."""
        self._path(name)
        self._layers.destroy(name)

    def names(self) -> set[str]:
        """Names of all layers, remembered or not; none while it is not mounted."""
        return self._layers.names()

    def usage(self, name: str) -> int:
        """Bytes that a layer occupies now, its own metadata included; raises ``SandboxNotFound`` without one."""
        try:
            return self._layers.usage(name)
        except KeyError:
            raise SandboxNotFound(name) from None

    # -- snapshots -----------------------------------------------------------------------------------------------

    def snapshot(self, name: str, snapshot_id: str) -> Path:
        """Capture a layer read-only, and return where; the caller has stopped its writers.

        When this returns it is on the disk. Raises ``SandboxNotFound``, and ``Conflict`` when the snapshot exists.
        """
        self.existing(name)
        target = self._snapshot_path(snapshot_id)
        try:
            self._snapshots.snapshot(snapshot_id, self._layers.path(name), read_only=True)
        except FileExistsError:
            raise Conflict(f"snapshot {snapshot_id!r} exists already") from None
        except OSError as error:
            raise storage_error(error, "the snapshot could not be made") from error
        return target

    def snapshots(self) -> set[str]:
        """Ids of all snapshots."""
        return self._snapshots.names()

    def snapshot_directory(self, snapshot_id: str) -> Path:
        """Where a snapshot is; raises ``SnapshotNotFound`` without one."""
        path = self._snapshot_path(snapshot_id)
        if not path.is_dir():
            raise SnapshotNotFound(snapshot_id)
        return path

    def snapshot_owner(self, snapshot_id: str) -> int:
        """Host id that files of the sandbox's root have in a snapshot; raises ``SnapshotNotFound`` without one."""
        try:
            return os.stat(self._snapshot_path(snapshot_id)).st_uid
        except FileNotFoundError:
            raise SnapshotNotFound(snapshot_id) from None

    def remove_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; raises ``SnapshotNotFound`` without one."""
        if not self._snapshot_path(snapshot_id).is_dir():
            raise SnapshotNotFound(snapshot_id)
        self._snapshots.destroy(snapshot_id)

    def _path(self, name: str) -> Path:
        if not is_sandbox_id(name):
            raise InvalidInput(f"{name!r} is no sandbox id", field="sandboxID")
        return self._layers.path(name)

    def _snapshot_path(self, snapshot_id: str) -> Path:
        if _SNAPSHOT_ID.fullmatch(snapshot_id) is None:
            raise InvalidInput(f"{snapshot_id!r} is no snapshot id", field="snapshotID")
        return self._snapshots.path(snapshot_id)


def make_layer(directory: Path, name: str, *, owner: int, disk_mb: int) -> tuple[Layer, int]:
    """Make an empty layer like :meth:`Volume.layer`, and tell its subvolume's id: for another process, whose volume
    must :meth:`~Volume.learn` of it. Raises ``OSError``; what was made then is left."""
    layers = Subvolumes(directory, QuotaGroups(directory))
    with layers.created(name) as fd:
        _furnish(fd, owner, disk_mb * _MIB)
    return Layer(directory / name / "upper", directory / name / "work"), layers.id(name)


def _furnish(fd: int, owner: int, limit: int) -> None:
    """Make a new layer what an overlay needs."""
    _dedicate(fd, owner, limit)
    for directory in ("upper", "work"):
        os.mkdir(directory, 0o755, dir_fd=fd)
        os.chown(directory, owner, owner, dir_fd=fd, follow_symlinks=False)


def _dedicate(fd: int, owner: int, limit: int) -> None:
    """Give a new layer its owner and the bytes that it may take."""
    btrfs.qgroup_limit(fd, limit)
    os.fchown(fd, owner, owner)
    os.fchmod(fd, 0o700)


def volumes_directory(settings: Settings) -> Path:
    """Where the volumes of clients are, one subvolume each."""
    return settings.volume_dir / "volumes"
