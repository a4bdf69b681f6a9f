"""OCI image layers, applied to a tree (OCI image-spec, "Image Layer Filesystem Changeset").

The archives are hostile. What is not one plain path inside the image is refused; what a sandbox has no use for
(devices, named pipes, attributes with a meaning for the kernel) is left out and counted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cube.master.templates.tar import Kind, Member, TarReader
from cube.master.templates.tree import MAX_DEPTH, MAX_PATH, Tree, create_file, make_directory, remove
from cube.model.errors import InvalidInput, StorageFull

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
#: Ids that a sandbox has; files of others belong to nobody.
_IDS = 65536
_NOBODY = 65534
_MAX_XATTR_BYTES = 1 << 16
#: Errors of the kernel that say that the archive contradicts itself.
_CONTRADICTIONS = {
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EXDEV,
    errno.ENOENT,
    errno.EINVAL,
    errno.EMLINK,
    errno.EPERM,
    errno.EISDIR,
}


@dataclass(slots=True)
class Limits:
    """What is left of the bounds of one image; raises ``InvalidInput`` when one is passed."""

    members: int = 2_000_000
    content_bytes: int = 64 << 30

    def take(self, members: int, content_bytes: int) -> None:
        """Count these in."""
        self.members -= members
        self.content_bytes -= content_bytes
        if self.members < 0:
            raise InvalidInput("the image has too many files")
        if self.content_bytes < 0:
            raise InvalidInput("the image is too large when unpacked")


@dataclass(slots=True)
class LayerWriter:
    """Applies the layers of one image, lowest first."""

    tree: Tree
    limits: Limits = field(default_factory=Limits)
    #: What was left out, by reason.
    skipped: Counter[str] = field(default_factory=Counter)
    #: What the current layer has made, by inode of the directory and name there: its opaque markers spare it.
    _made: set[tuple[int, str]] = field(default_factory=set)
    #: Inodes of the directories that it has declared opaque.
    _opaque: set[int] = field(default_factory=set)

    def apply(self, archive: TarReader, stop: threading.Event) -> None:
        """Apply one layer; returns early once ``stop`` is set. Raises ``InvalidInput`` for what is forbidden."""
        self._made, self._opaque = set(), set()
        for member in archive:
            if stop.is_set():
                return
            self.limits.take(1, member.size)
            self._apply_checked(member, archive)

    def _apply_checked(self, member: Member, archive: TarReader) -> None:
        path = plain_path(member.name)
        try:
            self._apply_member(path, member, archive)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("the disk is full: the image could not be unpacked") from error
            if error.errno not in _CONTRADICTIONS:
                raise
            raise InvalidInput(f"the image cannot have {path!r} there: {error.strerror}") from error

    def _apply_member(self, path: str, member: Member, archive: TarReader) -> None:
        name = path.rpartition("/")[2]
        if path == "":
            self._root(member)
        elif name.startswith(_WHITEOUT):
            self._white_out(path)
        elif member.kind in (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARD_LINK):
            self._make(path, member, archive)
        else:
            self.skipped[member.kind.name.lower()] += 1

    def _root(self, member: Member) -> None:
        if member.kind is not Kind.DIRECTORY:
            raise InvalidInput("the image has a root that is not a directory")
        with self.tree.directory("") as fd:
            os.fchmod(fd, member.mode)

    def _make(self, path: str, member: Member, archive: TarReader) -> None:
        with self.tree.parent(path) as (fd, name):
            match member.kind:
                case Kind.DIRECTORY:
                    _make_directory(fd, name)
                case Kind.FILE:
                    _make_file(fd, name, archive)
                case Kind.SYMLINK:
                    _make_symlink(fd, name, member.link)
                case _:
                    self._make_hard_link(fd, name, member.link)
            if member.kind is not Kind.HARD_LINK:
                self._set_attributes(fd, name, member)
            self._made.add((os.fstat(fd).st_ino, name))

    def _make_hard_link(self, fd: int, name: str, link: str) -> None:
        head, _, target = plain_path(link).rpartition("/")
        with self.tree.directory(head) as source:
            if not target or stat.S_ISDIR(os.stat(target, dir_fd=source, follow_symlinks=False).st_mode):
                raise InvalidInput(f"the image has a hard link to the directory {link!r}")
            if not _same(source, target, fd, name):
                remove(fd, name)
                os.link(target, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)

    def _set_attributes(self, fd: int, name: str, member: Member) -> None:
        """Owner first: a change of owner clears set-id bits and capabilities."""
        os.chown(name, self._id(member.uid), self._id(member.gid), dir_fd=fd, follow_symlinks=False)
        if member.kind is not Kind.SYMLINK:
            os.chmod(name, member.mode, dir_fd=fd)
            self._set_xattrs(fd, name, member.xattrs)
        os.utime(name, (member.mtime, member.mtime), dir_fd=fd, follow_symlinks=False)

    def _id(self, number: int) -> int:
        if number < _IDS:
            return number
        self.skipped["owner out of range"] += 1
        return _NOBODY

    def _set_xattrs(self, fd: int, name: str, xattrs: dict[str, bytes]) -> None:
        """``user.*`` and file capabilities. Never ``overlay`` attributes: they would steer the sandbox's overlay."""
        for key, value in xattrs.items():
            known = key == "security.capability" or (key.startswith("user.") and not key.startswith("user.overlay."))
            if known and len(key) <= 255 and len(value) <= _MAX_XATTR_BYTES:
                _set_xattr(fd, name, key, value)
            else:
                self.skipped["extended attribute"] += 1

    def _white_out(self, path: str) -> None:
        head, _, name = path.rpartition("/")
        if name == _OPAQUE:
            self._clear(head)
        elif not name.startswith(".wh..wh."):  # others of these are bookkeeping of aufs
            self.tree.remove(plain_path(f"{head}/{name.removeprefix(_WHITEOUT)}".lstrip("/")))

    def _clear(self, directory: str) -> None:
        """Remove what lower layers have put into a directory; once is enough for one layer."""
        found = self.tree.stat(directory)
        if found is None or not stat.S_ISDIR(found.st_mode) or found.st_ino in self._opaque:
            return
        self._opaque.add(found.st_ino)
        with self.tree.directory(directory) as top:
            for _, names, files, fd in os.fwalk(".", topdown=False, dir_fd=top):
                self._remove_lower(fd, files, os.unlink)
                self._remove_lower(fd, names, _remove_empty)

    def _remove_lower(self, fd: int, names: list[str], how: Callable[..., None]) -> None:
        inode = os.fstat(fd).st_ino
        for name in names:
            if (inode, name) not in self._made:
                how(name, dir_fd=fd)


def plain_path(name: str) -> str:
    """A name of an archive as a relative path of plain components, empty for the root.

    Raises ``InvalidInput`` for one that is absolute, goes up, or is too long.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise InvalidInput(f"the image names {name!r}, a path outside of itself")
    if len(name) > MAX_PATH or len(parts) > MAX_DEPTH or any(len(os.fsencode(part)) > 255 for part in parts):
        raise InvalidInput("the image has a path that is too long")
    return "/".join(parts)


def _remove_empty(name: str, *, dir_fd: int) -> None:
    """Remove a directory, or a link to one, unless something in it is kept."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except IsADirectoryError:
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=dir_fd)


def _make_directory(fd: int, name: str) -> None:
    """Keep a directory with what is in it, replace anything else."""
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        make_directory(fd, name)
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=fd)
        make_directory(fd, name)


def _make_file(fd: int, name: str, archive: TarReader) -> None:
    remove(fd, name)
    with create_file(fd, name) as file:
        for chunk in archive.chunks():
            file.write(chunk)


def _make_symlink(fd: int, name: str, target: str) -> None:
    if not target or len(target) > MAX_PATH or "\0" in target:
        raise InvalidInput("the image has a symbolic link with an impossible target")
    remove(fd, name)
    os.symlink(target, name, dir_fd=fd)


def _same(first_fd: int, first: str, second_fd: int, second: str) -> bool:
    try:
        stats = [
            os.stat(name, dir_fd=fd, follow_symlinks=False) for fd, name in ((first_fd, first), (second_fd, second))
        ]
    except FileNotFoundError:
        return False
    return os.path.samestat(*stats)


def _set_xattr(dir_fd: int, name: str, key: str, value: bytes) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.setxattr(fd, key, value)
    finally:
        os.close(fd)
