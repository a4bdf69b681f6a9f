"""The volume of writable layers: one sparse file with btrfs inside, one subvolume with a quota per sandbox.

btrfs is chosen because a subvolume with an enforced size costs two ioctls (0.05 ms together), is removed by one, and
can be captured by a snapshot; quotas of ext4 and XFS are missing in many kernels. The file keeps this independent of
what the host's own file system is.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from cube.cubelet.storage import backing, btrfs, mounts
from cube.model.errors import Conflict, HostError, InvalidInput, SandboxNotFound, SnapshotNotFound, StorageFull
from cube.model.ids import is_sandbox_id
from cube.settings import Settings

_MIB = 1 << 20
_SNAPSHOT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
#: Counters of /sys/fs/btrfs/<uuid>/qgroups/0_<id> that together are what a layer occupies: written, and promised to
#: writes that have not reached the disk yet.
_USAGE_COUNTERS = ("referenced", "rsv_data")


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
        self._layers = self._root / "layers"
        self._snapshots = self._root / "snapshots"
        self._qgroups = Path()
        self._ids: dict[str, int] = {}
        #: Subvolumes that are removed and whose quota group may still be there.
        self._dead: set[int] = set()

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
        self._layers.mkdir(exist_ok=True, mode=0o700)
        self._snapshots.mkdir(exist_ok=True, mode=0o700)
        with btrfs.directory(self._root) as fd:
            self._qgroups = btrfs.qgroups_directory(fd)
        self._ids = {name: _subvolume_id(self._layers / name) for name in os.listdir(self._layers)}
        snapshots = {_subvolume_id(path) for path in self._snapshots.iterdir()}
        self._dead = self._groups() - snapshots - set(self._ids.values())

    def close(self) -> None:
        """Unmount; the loop device goes with it. Succeeds when nothing is mounted, raises ``Conflict`` when in use."""
        self._ids.clear()
        while mounts.find(self._root) is not None:
            try:
                mounts.umount(self._root)
            except OSError as error:
                raise Conflict(f"{self._root} is still in use: end what works in it, then try again") from error

    def discard(self) -> None:
        """Unmount, and remove the file unless snapshots are in it; raises ``Conflict`` when the volume is in use."""
        mounted = mounts.find(self._root) is not None
        empty = mounted and not any(self._snapshots.iterdir())
        self.close()
        if empty:
            self._image.unlink(missing_ok=True)
            self._root.rmdir()

    def layer(self, sandbox_id: str, *, owner: int, disk_mb: int) -> Layer:
        """Make the layer of a sandbox, limited to ``disk_mb`` MiB and owned by host user and group ``owner``.

        Raises ``Conflict`` when it exists, ``StorageFull`` when the volume is full.
        """
        path = self._path(sandbox_id)
        try:
            self._create(path, owner, disk_mb * _MIB)
        except FileExistsError:
            raise Conflict(f"sandbox {sandbox_id!r} has a writable layer already") from None
        except OSError as error:
            self.remove(sandbox_id)
            raise _storage_error(error, "the writable layer could not be made") from error
        return Layer(path / "upper", path / "work")

    def _create(self, path: Path, owner: int, limit: int) -> None:
        with btrfs.directory(self._layers) as layers:
            btrfs.subvol_create(layers, path.name)
        with btrfs.directory(path) as fd:
            self._ids[path.name] = btrfs.subvolume_id(fd)
            btrfs.qgroup_limit(fd, limit)
            for name in ("upper", "work"):
                os.mkdir(name, 0o755, dir_fd=fd)
                os.chown(name, owner, owner, dir_fd=fd, follow_symlinks=False)

    def limit(self, sandbox_id: str, disk_mb: int) -> None:
        """Give a layer another size limit, in MiB; raises ``SandboxNotFound`` without one."""
        self.existing(sandbox_id)
        with btrfs.directory(self._path(sandbox_id)) as fd:
            btrfs.qgroup_limit(fd, disk_mb * _MIB)

    def existing(self, sandbox_id: str) -> Layer:
        """The layer of a sandbox that an earlier run made; raises ``SandboxNotFound`` without one."""
        path = self._path(sandbox_id)
        if sandbox_id not in self._ids:
            raise SandboxNotFound(sandbox_id)
        return Layer(path / "upper", path / "work")

    def remove(self, sandbox_id: str) -> None:
        """Remove a layer with everything in it; succeeds when there is none. Blocks are freed in the background."""
        _destroy(self._layers, self._path(sandbox_id).name)
        subvolume = self._ids.pop(sandbox_id, None)
        if subvolume is not None:
            self._dead.add(subvolume)

    def names(self) -> set[str]:
        """Ids of the sandboxes that have a layer, remembered or not; none while it is not mounted."""
        try:
            return set(os.listdir(self._layers))
        except FileNotFoundError:
            return set()

    def usage(self, sandbox_id: str) -> int:
        """Bytes that a layer occupies now, its own metadata included; raises ``SandboxNotFound`` without one."""
        subvolume = self._ids.get(sandbox_id)
        if subvolume is None:
            raise SandboxNotFound(sandbox_id)
        group = self._qgroups / f"0_{subvolume}"
        return sum(int((group / counter).read_bytes()) for counter in _USAGE_COUNTERS)

    def room(self) -> int:
        """Bytes that layers can still take, by the volume and by the file system that its file lies on. Keep some:
        a volume whose file cannot grow any more turns read-only for everybody."""
        spaces = os.statvfs(self._root), os.statvfs(self._image)
        return min(space.f_bavail * space.f_frsize for space in spaces)

    def snapshot(self, sandbox_id: str, snapshot_id: str) -> Path:
        """Capture a layer read-only, and return where; the caller has stopped its writers.

        Raises ``SandboxNotFound``, and ``Conflict`` when the snapshot exists.
        """
        self.existing(sandbox_id)
        target = self._snapshot_path(snapshot_id)
        try:
            with btrfs.directory(self._path(sandbox_id)) as source, btrfs.directory(self._snapshots) as fd:
                btrfs.snap_create(fd, target.name, source, read_only=True)
        except FileExistsError:
            raise Conflict(f"snapshot {snapshot_id!r} exists already") from None
        except OSError as error:
            raise _storage_error(error, "the snapshot could not be made") from error
        return target

    def remove_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; raises ``SnapshotNotFound`` without one."""
        target = self._snapshot_path(snapshot_id)
        if not target.is_dir():
            raise SnapshotNotFound(snapshot_id)
        subvolume = _subvolume_id(target)
        _destroy(self._snapshots, target.name)
        self._dead.add(subvolume)

    def sweep(self) -> int:
        """Remove quota groups of subvolumes that are gone; returns how many. For a housekeeping task: the kernel
        frees a removed layer at its next commits, and only then its group can go."""
        with btrfs.directory(self._root) as fd:
            gone = {group for group in tuple(self._dead) if _destroy_group(fd, group)}
        self._dead -= gone
        return len(gone)

    def _groups(self) -> set[int]:
        names = (name.removeprefix("0_") for name in os.listdir(self._qgroups) if name.startswith("0_"))
        return {group for name in names if (group := int(name)) >= btrfs.FIRST_SUBVOLUME}

    def _path(self, sandbox_id: str) -> Path:
        if not is_sandbox_id(sandbox_id):
            raise InvalidInput(f"{sandbox_id!r} is no sandbox id", field="sandboxID")
        return self._layers / sandbox_id

    def _snapshot_path(self, snapshot_id: str) -> Path:
        if _SNAPSHOT_ID.fullmatch(snapshot_id) is None:
            raise InvalidInput(f"{snapshot_id!r} is no snapshot id", field="snapshotID")
        return self._snapshots / snapshot_id


def _subvolume_id(path: Path) -> int:
    with btrfs.directory(path) as fd:
        return btrfs.subvolume_id(fd)


def _destroy(parent: Path, name: str) -> None:
    with btrfs.directory(parent) as fd:
        try:
            btrfs.snap_destroy(fd, name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostError(f"the layer {name!r} could not be removed: {error.strerror}") from error


def _destroy_group(fd: int, group: int) -> bool:
    """Remove a quota group; ``False`` while the kernel still needs it."""
    try:
        btrfs.qgroup_destroy(fd, group)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOENT):
            return error.errno == errno.ENOENT
        raise HostError(f"the quota group of a removed layer stays: {error.strerror}") from error
    return True


def _storage_error(error: OSError, what: str) -> StorageFull | HostError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"{what}: the node has no room left for writable layers")
    return HostError(f"{what}: {error.strerror}")
