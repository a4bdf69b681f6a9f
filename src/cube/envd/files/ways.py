"""The two ways from memory to the disk, and which of them is taken for what is written to one file.

Through the page cache the kernel copies every byte and keeps account of every page; on btrfs (Linux 6.18, 4 KiB at a
time) that is most of what an upload costs. A direct write costs the processor next to nothing, and one upload neither
takes the cache nor the room for unwritten data from everybody else; but it is as fast as the disk, and the first reader
waits for the disk too. So a file begins in the cache, where all but big ones stay, and the rest of it goes the way that
was faster of late.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from enum import Enum, auto
from typing import Final

from cube.envd.aligned import PAGE, is_aligned
from cube.envd.files.blocking import write_all
from cube.envd.guest import Buffer

#: Bytes at the beginning of a file that go through the cache.
CACHED_FIRST: Final = 64 * 1024 * 1024
#: Bytes after which the other way is tried once, for the machine's load changes.
_TRY_AGAIN: Final = 64 * 1024 * 1024
#: So much longer may a direct write take: meanwhile the processor is there for those who bring the content.
_PATIENCE: Final = 1.5
#: What the last write counts for in the average of a way.
_WEIGHT: Final = 0.25


class Way(Enum):
    """How a write gets to the disk."""

    CACHED = auto()
    DIRECT = auto()

    @property
    def other(self) -> Way:
        """The one that this is not."""
        return Way.DIRECT if self is Way.CACHED else Way.CACHED


class Speeds:
    """How long the two ways took of late, and which is next."""

    def __init__(self) -> None:
        self._way = Way.CACHED
        self._costs: dict[Way, float] = {}
        self._since_try = 0

    def next(self) -> Way:
        """The way that was faster; the other one when it is unknown, or was not tried for long."""
        other = self._way.other
        return other if other not in self._costs or self._since_try >= _TRY_AGAIN else self._way

    def took(self, way: Way, size: int, seconds: float) -> None:
        """Note how long so many bytes took. An average is kept of the way that is being taken; of the other one, what
        it took long ago says nothing."""
        cost = seconds / size / (_PATIENCE if way is Way.DIRECT else 1)
        if way is self._way:
            self._since_try += size
            cost += (self._costs.get(way, cost) - cost) * (1 - _WEIGHT)
        else:
            self._since_try = 0
        self._costs[way] = cost
        self._way = min(self._costs, key=self._costs.__getitem__)


class FileSink:
    """Writes to one file that is empty at first, one call at a time. Blocks."""

    def __init__(self, fd: int) -> None:
        """``fd`` stays the caller's."""
        self._fd = fd
        self._position = 0
        self._speeds = Speeds()
        #: Whether the file system takes direct writes, as far as is known.
        self._direct = True
        self._way = Way.CACHED

    def write(self, data: Buffer) -> None:
        """Write everything after what was written before; raises ``OSError``."""
        if self._position % PAGE == 0 and is_aligned(data):
            self._write_whole_pages(data)
        else:
            self._write_cached(data)
        self._position += len(data)

    def _write_whole_pages(self, data: Buffer) -> None:
        way = self._speeds.next() if self._direct and self._position >= CACHED_FIRST else Way.CACHED
        begun = time.perf_counter()
        if way is Way.DIRECT:
            self._write_direct(data)
        else:
            self._write_cached(data)
        self._speeds.took(way, len(data), time.perf_counter() - begun)

    def _write_direct(self, data: Buffer) -> None:
        """Through the cache after all where the file system wants it otherwise, or takes a part of it alone."""
        written = 0
        try:
            self._switch(Way.DIRECT)
            written = os.write(self._fd, data)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
            self._direct = False
        if written < len(data):
            self._write_cached(memoryview(data)[written:])

    def _write_cached(self, data: Buffer) -> None:
        self._switch(Way.CACHED)
        write_all(self._fd, data)

    def _switch(self, way: Way) -> None:
        if way is self._way:
            return
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT
        fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | (os.O_DIRECT if way is Way.DIRECT else 0))
        self._way = way
