"""Large files with holes: shared or copied without filling the holes, and told apart by their content."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import xxhash

_FICLONE: Final = 0x40049409
#: Bytes that are read, written and looked at together.
BLOCK: Final = 1 << 20
_NOTHING: Final = bytes(BLOCK)
#: What file systems answer that cannot share blocks between these two files.
_CANNOT_SHARE: Final = (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY)


def extents(fd: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, as (begin, end) in order."""
    size, position = os.fstat(fd).st_size, 0
    while position < size:
        try:
            begin = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, position


def clone(source: int, target: int) -> None:
    """Make the empty file ``target`` equal to ``source``: by sharing its blocks, or where the file system cannot, by
    copying them. Raises ``OSError``."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT_SHARE:
            raise
        copy(source, target)


def copy(source: int, target: int) -> None:
    """Copy the data of a file into an empty one; holes stay holes. Raises ``OSError``."""
    os.ftruncate(target, os.fstat(source).st_size)
    for begin, end in extents(source):
        os.lseek(source, begin, os.SEEK_SET)
        os.lseek(target, begin, os.SEEK_SET)
        left = end - begin
        while left > 0:
            sent = os.sendfile(target, source, None, left)
            if sent == 0:
                raise OSError(errno.EIO, "a file became shorter while it was copied")
            left -= sent


def write_out(path: Path) -> None:
    """Have what was written to a file on the disk before going on. Raises ``OSError``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def digest(fd: int) -> str:
    """A value that two files of the same size have in common only when their content is the same.

    Holes and zeros count alike. Not meant against forgery: who can write the file can write its digest.
    """
    found = xxhash.xxh3_128()
    buffer = memoryview(bytearray(BLOCK))
    for number in _blocks(fd):
        size = os.preadv(fd, [buffer], number * BLOCK)
        block = buffer[:size]
        if block != _NOTHING[:size]:
            found.update(number.to_bytes(8, "little"))
            found.update(block)
    return found.hexdigest()


def _blocks(fd: int) -> Iterator[int]:
    """Numbers of the blocks that have data, in order and each once."""
    following = 0
    for begin, end in extents(fd):
        first = max(begin // BLOCK, following)
        following = max(following, -(-end // BLOCK))
        yield from range(first, following)
