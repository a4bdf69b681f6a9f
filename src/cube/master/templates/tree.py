"""A directory tree whose content is hostile, changed without ever leaving it.

Every path is resolved by the kernel inside the tree (openat2(2) with ``RESOLVE_IN_ROOT``: ``..`` stops at the root and
absolute symbolic links start there), and what is made or removed is then named relative to a descriptor of its
parent, never following a link in the last component.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from cube.model.errors import InvalidInput

# <linux/openat2.h>
_SYS_OPENAT2 = 437
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_RESOLVE = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_XDEV

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: Deepest directory, and longest path that is accepted: tools that walk the tree later have limits of their own.
MAX_DEPTH = 200
MAX_PATH = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def openat2(dir_fd: int, path: str, flags: int) -> int:
    """Open ``path`` inside the directory ``dir_fd`` as if that were the root; raises ``OSError``."""
    how = struct.pack("=QQQ", flags, 0, _RESOLVE)
    # EAGAIN: a rename elsewhere on the machine raced with "..", the kernel asks to try again.
    for _ in range(16):
        fd = int(_libc.syscall(_SYS_OPENAT2, dir_fd, os.fsencode(path), how, ctypes.c_size_t(len(how))))
        if fd >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd


class Tree:
    """A tree, by a descriptor of its root. Paths are relative to it, of plain components, ``/`` between them."""

    def __init__(self, root: Path) -> None:
        self.path = root
        self._root = os.open(root, _DIRECTORY | os.O_NOFOLLOW)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._root)

    @contextlib.contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """A descriptor of an existing directory; links on the way are followed inside the tree."""
        fd = openat2(self._root, path or ".", _DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory that ``path`` lies in, made when missing, and the last component."""
        head, _, name = path.rpartition("/")
        fd = self._directory_or_make(head)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def _directory_or_make(self, path: str) -> int:
        try:
            return openat2(self._root, path or ".", _DIRECTORY)
        except FileNotFoundError:
            with self.parent(path) as (fd, name):
                make_directory(fd, name)
        return openat2(self._root, path, _DIRECTORY)

    def stat(self, path: str) -> os.stat_result | None:
        """What is at ``path``, a link itself rather than its target; ``None`` when there is nothing."""
        head, _, name = path.rpartition("/")
        try:
            with self.directory(head) as fd:
                return os.stat(name or ".", dir_fd=fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, path: str) -> BinaryIO:
        """A regular file for reading, followed through links inside the tree; raises ``InvalidInput`` for others."""
        fd = openat2(self._root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidInput(f"{path} is not a regular file")
        return open(fd, "rb")

    def read(self, path: str, limit: int) -> bytes:
        """Content of a regular file; raises ``InvalidInput`` when it is larger than ``limit`` bytes."""
        with self.open(path) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InvalidInput(f"{path} is larger than {limit} bytes")
        return data

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Put a regular file of root at ``path``, in the place of whatever is there."""
        with self.parent(path) as (fd, name):
            remove(fd, name)
            with create_file(fd, name) as file:
                file.write(data)
                os.fchmod(file.fileno(), mode)

    def remove(self, path: str) -> None:
        """Remove what is at ``path`` with everything below; succeeds when there is nothing."""
        head, _, name = path.rpartition("/")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self.directory(head) as fd:
            remove(fd, name)

    def empty(self, path: str) -> None:
        """Remove everything in a directory; succeeds when there is no such directory."""
        found = self.stat(path)
        if found is not None and stat.S_ISDIR(found.st_mode):
            with self.directory(path) as fd:
                for name in os.listdir(fd):
                    remove(fd, name)


def make_directory(dir_fd: int, name: str, mode: int = 0o755) -> None:
    """Make a directory; raises ``InvalidInput`` where that would be too deep."""
    try:
        here = os.readlink(f"/proc/self/fd/{dir_fd}")
    except OSError as error:
        raise InvalidInput("the image has a path that is too long") from error
    if here.count("/") > MAX_DEPTH or len(here) > MAX_PATH - 512:
        raise InvalidInput(f"the image has directories that are nested more than {MAX_DEPTH} deep")
    os.mkdir(name, mode, dir_fd=dir_fd)
    os.chmod(name, mode, dir_fd=dir_fd)


def create_file(dir_fd: int, name: str) -> BinaryIO:
    """Create a regular file that did not exist, open for writing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(name, flags, 0o600, dir_fd=dir_fd), "wb")


def remove(dir_fd: int, name: str) -> None:
    """Remove a file or a directory with everything in it; succeeds when there is nothing. Links are not followed."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=dir_fd)
