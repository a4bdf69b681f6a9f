"""The files of one volume, for requests from outside of sandboxes.

Everything here blocks, and is done with the rights of the host's root: the owners that a request names are ids of
sandboxes, which are translated into a range of the host that belongs to nobody else.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cube.cubelet.storage.openat2 import open_beneath
from cube.cubelet.volumes import removal
from cube.cubelet.volumes.places import (
    Describer,
    clean,
    join,
    open_directory,
    open_inside,
    opened,
    split,
)
from cube.model.errors import Conflict, InvalidInput, NotFound
from cube.model.volumes import DEEPEST, Attributes, EntryType, VolumeEntry

#: The parts of a volume: what sandboxes see, what is being uploaded, and what is being removed.
FILES, INCOMING, REMOVED = "files", "incoming", "removed"
#: Who owns what a request makes without saying: the user that commands run as in the default templates. Everybody may
#: write it, for sandboxes of several templates share a volume.
USER = 1000
FILE_MODE = 0o666
DIRECTORY_MODE = 0o777
#: Entries of one answer: a sandbox can make millions.
_MOST_ENTRIES = 100_000
_LISTABLE = os.O_RDONLY | os.O_DIRECTORY


class VolumeTree:
    """Raises ``InvalidInput`` (``path``), ``NotFound``, ``Conflict``, and ``OSError`` for what else the kernel says."""

    def __init__(self, directory: Path, id_base: int) -> None:
        """``directory`` has the three parts; ``id_base`` is the host id that is root in sandboxes."""
        self._directory = directory
        self.describer = Describer(id_base)

    @contextmanager
    def part(self, name: str) -> Iterator[int]:
        """A descriptor of one of the volume's parts."""
        with opened(os.open(self._directory / name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
            yield fd

    def stat(self, path: str) -> VolumeEntry:
        """An entry; a symbolic link itself."""
        path = clean(path)
        directory, name = split(path)
        with self.part(FILES) as root, opened(open_directory(root, directory)) as parent:
            return self.describer.named(parent, name, path)

    def entries(self, path: str, depth: int) -> list[VolumeEntry]:
        """What is in a directory, by name, each directory followed by its own entries, ``depth`` levels in all."""
        if not 1 <= depth <= DEEPEST:
            raise InvalidInput(f"depth must be between 1 and {DEEPEST}", field="depth")
        found: list[VolumeEntry] = []
        path = clean(path)
        with self.part(FILES) as root, opened(open_inside(root, path, _LISTABLE)) as directory:
            self._walk(directory, path, depth, found)
        return found

    def _walk(self, directory: int, path: str, depth: int, found: list[VolumeEntry]) -> None:
        for name in _names(directory, path):
            with suppress(FileNotFoundError):  # removed meanwhile
                _refuse_more_than(len(found) + 1, path)
                entry = self.describer.named(directory, name, join(path, name))
                found.append(entry)
                if entry.type is EntryType.DIRECTORY and depth > 1:
                    self._descend(directory, name, entry.path, depth - 1, found)

    def _descend(self, directory: int, name: str, path: str, depth: int, found: list[VolumeEntry]) -> None:
        try:
            child = open_beneath(directory, name, _LISTABLE)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):  # it is no directory any more
                raise
            return
        with opened(child):
            self._walk(child, path, depth, found)

    def make_dir(self, path: str, wish: Attributes, *, parents: bool) -> VolumeEntry:
        """A new directory, and with ``parents`` those above it; then one that is there already is fine."""
        path = clean(path)
        directory, name = split(path)
        with self.part(FILES) as root, opened(self.parent(root, directory, wish, parents=parents)) as parent:
            self._make(parent, name, wish, path, fine_when_there=parents)
            with opened(open_beneath(parent, name, _LISTABLE)) as made:
                return self.describer.of(made, path)

    def _make(self, parent: int, name: str, wish: Attributes, path: str, *, fine_when_there: bool) -> None:
        try:
            os.mkdir(name or ".", 0o700, dir_fd=parent)
        except FileExistsError:
            if not fine_when_there or not _is_directory(parent, name):
                raise Conflict(f"path {path} exists already") from None
            return
        with opened(open_beneath(parent, name, _LISTABLE)) as made:
            self.give(made, wish, DIRECTORY_MODE)

    def parent(self, root: int, directory: str, wish: Attributes, *, parents: bool) -> int:
        """A descriptor of a directory that something is to be made in; with ``parents`` it is made when missing."""
        try:
            return open_directory(root, directory)
        except FileNotFoundError:
            if not parents:
                raise
        self._make_way(root, directory, Attributes(wish.uid, wish.gid))
        return open_directory(root, directory)

    def _make_way(self, root: int, directory: str, wish: Attributes) -> None:
        path = ""
        for name in directory.strip("/").split("/"):
            above, path = path, f"{path}/{name}"
            with suppress(FileNotFoundError):
                os.close(open_directory(root, path))
                continue
            with opened(open_directory(root, above)) as parent:
                self._make(parent, name, wish, path, fine_when_there=True)

    def update(self, path: str, wish: Attributes) -> VolumeEntry:
        """Give an entry another owner or other permissions; of a symbolic link, what it leads to."""
        path = clean(path)
        with self.part(FILES) as root, opened(open_inside(root, path, os.O_PATH)) as found:
            # What stands for a path cannot be changed by its descriptor, but by the kernel's name of that.
            self._change(f"/proc/self/fd/{found}", wish)
            return self.describer.of(found, path)

    def _change(self, entry: int | str, wish: Attributes) -> None:
        if wish.uid is not None or wish.gid is not None:
            os.chown(
                entry, *(-1 if number is None else self.describer.on_disk(number) for number in (wish.uid, wish.gid))
            )
        if wish.mode is not None:  # last, for the kernel takes bits away when the owner changes
            os.chmod(entry, wish.mode)

    def give(self, fd: int, wish: Attributes, mode: int) -> None:
        """Owner and permissions of something new, ``mode`` unless the request names others."""
        uid, gid = (USER if number is None else number for number in (wish.uid, wish.gid))
        self._change(fd, Attributes(uid, gid, mode if wish.mode is None else wish.mode))

    def remove(self, path: str) -> None:
        """Remove an entry, and all that is in it; it is gone at once, however long its removal takes."""
        path = clean(path)
        directory, name = split(path)
        if not name:
            raise InvalidInput("path must not be the root of the volume", field="path")
        with self.part(FILES) as root, opened(open_directory(root, directory)) as parent, self.part(REMOVED) as aside:
            removal.remove(parent, name, aside)

    def open(self, path: str) -> tuple[int, VolumeEntry]:
        """A descriptor to read a file from, which belongs to the caller."""
        path = clean(path)
        with self.part(FILES) as root, opened(open_inside(root, path, os.O_PATH)) as found:
            entry = self.describer.of(found, path)
            if entry.type is not EntryType.FILE:
                raise NotFound(f"path {path} is not a file")
            # Only now that it is known what it is: opening a device or a pipe has effects. It never waits, neither
            # for a lease that a process inside holds.
            return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), entry

    def clear(self) -> None:
        """Remove what an earlier run of the service has left unfinished."""
        for name in (INCOMING, REMOVED):
            with self.part(name) as aside:
                removal.clear(aside)


def _names(directory: int, path: str) -> list[str]:
    names = []
    with os.scandir(directory) as entries:
        for entry in entries:
            names.append(entry.name)
            _refuse_more_than(len(names), path)
    return sorted(names)


def _refuse_more_than(count: int, path: str) -> None:
    if count > _MOST_ENTRIES:
        most = f"no more than {_MOST_ENTRIES} entries are listed at once"
        raise InvalidInput(f"path {path}: {most}; list a part of it, or less deep", field="path")


def _is_directory(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name or ".", dir_fd=parent, follow_symlinks=False).st_mode)
