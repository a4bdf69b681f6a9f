"""A directory of btrfs subvolumes, each with its quota group."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from cube.cubelet.storage import btrfs
from cube.model.errors import HostError, StorageFull

#: Counters of /sys/fs/btrfs/<uuid>/qgroups/0_<id> that together are what a subvolume occupies: written, and promised to
#: writes that have not reached the disk yet.
_USAGE_COUNTERS = ("referenced", "rsv_data")


class QuotaGroups:
    """The quota groups of one file system, and those of them whose subvolume is gone."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = Path()
        #: Subvolumes that are removed and whose quota group may still be there.
        self._dead: set[int] = set()

    def open(self) -> None:
        """Find them on a file system that has just been mounted."""
        with btrfs.directory(self._root) as fd:
            self._directory = btrfs.qgroups_directory(fd)

    def usage(self, subvolume: int) -> int:
        """Bytes that a subvolume occupies now, its own metadata included."""
        group = self._directory / f"0_{subvolume}"
        return sum(int((group / counter).read_bytes()) for counter in _USAGE_COUNTERS)

    def all(self) -> set[int]:
        """Ids of all groups of subvolumes."""
        names = (name.removeprefix("0_") for name in os.listdir(self._directory) if name.startswith("0_"))
        return {group for name in names if (group := int(name)) >= btrfs.FIRST_SUBVOLUME}

    def bury(self, *subvolumes: int) -> None:
        """Note that these subvolumes are gone."""
        self._dead.update(subvolumes)

    @property
    def buried(self) -> frozenset[int]:
        """Those whose group may still be there."""
        return frozenset(self._dead)

    def sweep(self) -> int:
        """Remove groups of subvolumes that are gone; returns how many. The kernel frees a removed subvolume at its
        next commits, and only then its group can go; one that a snapshot shares blocks with stays as long as that."""
        with btrfs.directory(self._root) as fd:
            gone = {group for group in tuple(self._dead) if _destroy_group(fd, group)}
        self._dead -= gone
        return len(gone)


class Subvolumes:
    """The subvolumes in one directory, by name. Names come checked. Calls may run at the same time for different
    names."""

    def __init__(self, directory: Path, groups: QuotaGroups) -> None:
        self.directory = directory
        self._groups = groups
        self._ids: dict[str, int] = {}

    def open(self) -> None:
        """Make the directory, or find what is in it."""
        self.directory.mkdir(exist_ok=True, mode=0o700)
        self._ids = {name: _subvolume_id(self.directory / name) for name in os.listdir(self.directory)}

    def close(self) -> None:
        """Forget what is in it."""
        self._ids.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def names(self) -> set[str]:
        """What lies there, remembered or not; nothing while it is not mounted."""
        try:
            return set(os.listdir(self.directory))
        except FileNotFoundError:
            return set()

    def ids(self) -> set[int]:
        """Ids of all that are remembered."""
        return set(self._ids.values())

    def id(self, name: str) -> int:
        """Id of one that is remembered; raises ``KeyError`` for another."""
        return self._ids[name]

    def learn(self, name: str, subvolume: int) -> None:
        """Remember one that somebody else has made."""
        self._ids[name] = subvolume

    def path(self, name: str) -> Path:
        """Where one is, or would be."""
        return self.directory / name

    @contextlib.contextmanager
    def created(self, name: str) -> Iterator[int]:
        """Make an empty one, and open it for the block; raises ``OSError``."""
        with btrfs.directory(self.directory) as fd:
            btrfs.subvol_create(fd, name)
        with btrfs.directory(self.directory / name) as fd:
            self._ids[name] = btrfs.subvolume_id(fd)
            yield fd

    def snapshot(self, name: str, source: Path, *, read_only: bool) -> None:
        """Make one with the content of the subvolume ``source``; raises ``OSError``.

        The kernel writes out what the source has dirty, and commits: it is whole, on the disk, or not there.
        """
        with btrfs.directory(self.directory) as fd, btrfs.directory(source) as from_fd:
            btrfs.snap_create(fd, name, from_fd, read_only=read_only)
        self._remember(name)

    def limit(self, name: str, size: int) -> None:
        """Let one grow to so many bytes; raises ``OSError``."""
        with btrfs.directory(self.directory / name) as fd:
            btrfs.qgroup_limit(fd, size)

    def rename(self, old: str, new: str) -> None:
        """Give one another name, which nothing has; raises ``OSError``."""
        os.rename(self.directory / old, self.directory / new)
        if old in self._ids:
            self._ids[new] = self._ids.pop(old)

    def destroy(self, name: str) -> None:
        """Remove one with everything in it; succeeds when there is none, or no file system. Blocks are freed in the
        background."""
        subvolume = self._ids.get(name)
        with contextlib.suppress(FileNotFoundError), btrfs.directory(self.directory) as fd:
            if subvolume is None:  # whoever has made it in another process was not able to tell
                subvolume = _subvolume_id(self.directory / name)
            try:
                btrfs.snap_destroy(fd, name)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise HostError(f"the layer {name!r} could not be removed: {error.strerror}") from error
        self._ids.pop(name, None)
        if subvolume is not None:
            self._groups.bury(subvolume)

    def usage(self, name: str) -> int:
        """Bytes that it occupies; raises ``KeyError`` for one that is not there."""
        return self._groups.usage(self._ids[name])

    def _remember(self, name: str) -> None:
        self._ids[name] = _subvolume_id(self.directory / name)


def storage_error(error: OSError, what: str) -> StorageFull | HostError:
    """The exception for a failed call; ``what`` is the beginning of the sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"{what}: the node has no room left for what sandboxes write")
    return HostError(f"{what}: {error.strerror}")


def _subvolume_id(path: Path) -> int:
    with btrfs.directory(path) as fd:
        return btrfs.subvolume_id(fd)


def _destroy_group(fd: int, group: int) -> bool:
    """Remove a quota group; ``False`` while the kernel still needs it."""
    try:
        btrfs.qgroup_destroy(fd, group)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOENT):
            return error.errno == errno.ENOENT
        raise HostError(f"the quota group of a removed layer stays: {error.strerror}") from error
    return True
