"""Names in a volume: how a request's path is read, and how an entry is found without ever leaving the volume."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from cube.cubelet.storage.openat2 import open_beneath
from cube.model.errors import InvalidInput
from cube.model.mounts import clean_path
from cube.model.volumes import EntryType, VolumeEntry
from cube.settings import ID_RANGE

#: What ids that stand for nobody in a sandbox are shown as, by the kernel too.
_NOBODY = 65534
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_TYPES = {stat.S_IFREG: EntryType.FILE, stat.S_IFDIR: EntryType.DIRECTORY, stat.S_IFLNK: EntryType.SYMLINK}


def clean(path: str) -> str:
    """A path as a client may write it, absolute and without ``..``. Raises ``InvalidInput``."""
    try:
        return clean_path("/" + path)
    except ValueError as error:
        raise InvalidInput(f"path {error}", field="path") from None


def split(path: str) -> tuple[str, str]:
    """The directory and the name of a clean path; the root has no name."""
    directory, _, name = path.rpartition("/")
    return directory or "/", name


def join(directory: str, name: str) -> str:
    """The path of an entry of a directory."""
    return f"{directory.rstrip('/')}/{name}"


@contextmanager
def opened(fd: int) -> Iterator[int]:
    """A descriptor that is closed at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_inside(root: int, path: str, flags: int, *, follow: bool = True) -> int:
    """Open a clean path below a volume's root; symbolic links are followed as long as they stay inside."""
    return open_beneath(root, path.lstrip("/"), flags, follow=follow)


def open_directory(root: int, path: str) -> int:
    """A descriptor that stands for a directory of a volume."""
    return open_inside(root, path, _DIRECTORY)


class Describer:
    """Tells of entries as clients see them; ``id_base`` is the host id that is root in sandboxes."""

    def __init__(self, id_base: int) -> None:
        self._id_base = id_base

    def on_disk(self, number: int) -> int:
        """The host's id for a user or group of sandboxes."""
        return self._id_base + number

    def named(self, directory: int, name: str, path: str) -> VolumeEntry:
        """The entry ``name`` of an open directory; a symbolic link is not followed."""
        found = os.stat(name or ".", dir_fd=directory, follow_symlinks=False)
        return self._entry(found, path, _target(directory, name) if stat.S_ISLNK(found.st_mode) else None)

    def of(self, fd: int, path: str) -> VolumeEntry:
        """An open file or directory."""
        return self._entry(os.fstat(fd), path, None)

    def _entry(self, found: os.stat_result, path: str, target: str | None) -> VolumeEntry:
        return VolumeEntry(
            name=_text(split(path)[1]) or "/",
            type=_TYPES.get(stat.S_IFMT(found.st_mode), EntryType.UNKNOWN),
            path=_text(path),
            size=found.st_size,
            mode=stat.S_IMODE(found.st_mode),
            uid=self._inside(found.st_uid),
            gid=self._inside(found.st_gid),
            atime=_moment(found.st_atime_ns),
            mtime=_moment(found.st_mtime_ns),
            ctime=_moment(found.st_ctime_ns),
            target=None if target is None else _text(target),
        )

    def _inside(self, number: int) -> int:
        inside = number - self._id_base
        return inside if 0 <= inside < ID_RANGE else _NOBODY


def _target(directory: int, name: str) -> str | None:
    with suppress(OSError):  # it is another entry meanwhile, or none
        return os.readlink(name, dir_fd=directory)
    return None


def _text(name: str) -> str:
    """A name of the file system as text that can be written down."""
    return os.fsencode(name).decode(errors="replace")


def _moment(nanoseconds: int) -> datetime:
    """A time of a file. Sandboxes set what they like: beyond what a date can be, it is the nearest that can."""
    seconds = min(max(nanoseconds / 1e9, _EARLIEST), _LATEST)
    return datetime.fromtimestamp(seconds, UTC)


_EARLIEST = datetime(1, 1, 2, tzinfo=UTC).timestamp()
_LATEST = datetime(9999, 12, 30, tzinfo=UTC).timestamp()
