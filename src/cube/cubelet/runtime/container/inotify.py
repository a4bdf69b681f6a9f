"""The records that an inotify descriptor yields, as ``inotify(7)`` lays them out."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag

_HEADER = struct.Struct("@iIII")
_BUFFER = 64 * 1024


class Mask(IntFlag):
    """Bits of ``mask`` that occur in events."""

    MODIFY = 0x2
    ATTRIB = 0x4
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    DELETE_SELF = 0x400
    MOVE_SELF = 0x800
    Q_OVERFLOW = 0x4000
    IGNORED = 0x8000
    ISDIR = 0x4000_0000


@dataclass(frozen=True, slots=True)
class RawEvent:
    """One record; ``name`` is empty when it is about the watched directory itself."""

    wd: int
    mask: int
    name: bytes


def is_inotify(fd: int) -> bool:
    """Whether a descriptor of unknown origin is one of inotify, which never blocks a reader that does not want it."""
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:inotify"


def read_events(fd: int) -> list[RawEvent]:
    """What one read yields from a non-blocking descriptor; empty when nothing waits."""
    try:
        data = os.read(fd, _BUFFER)
    except BlockingIOError:
        return []
    return list(parse_events(data))


def parse_events(data: bytes) -> Iterator[RawEvent]:
    """Take a buffer apart; a record that is cut off is dropped with whatever follows."""
    at = 0
    while at + _HEADER.size <= len(data):
        wd, mask, _cookie, length = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        if length > len(data) - at:
            return
        yield RawEvent(wd, mask, data[at : at + length].partition(b"\0")[0])
        at += length
