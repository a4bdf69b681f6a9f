"""The records that an inotify descriptor yields, as ``inotify(7)`` lays them out."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag

_HEADER = struct.Struct("<iIII")


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
