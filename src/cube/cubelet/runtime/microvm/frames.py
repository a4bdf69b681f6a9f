"""Frames: how messages and the bytes of many channels share the one stream of bytes of a serial port."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

#: Begins a session; never occurs inside a frame, which is split where it would.
MARK = b"\x9d\xf3cube.session\xc1\x8e"
#: Longest payload of a frame.
FRAME_MAX = 32 * 1024
#: Bytes of a channel that may be on their way and not confirmed, in each direction.
WINDOW = 64 * 1024

HEADER = struct.Struct("<BBHII")
TRAILER = b"\n"
OFFSETS = struct.Struct("<QQ")
U32 = struct.Struct("<I")
PAIR = struct.Struct("<II")
MORE = 1


class FrameType(IntEnum):
    """Types of frames, with their numbers on the wire."""

    HELLO = 1
    MESSAGE = 2
    DATA = 3
    CREDIT = 4
    END = 5
    CLOSE = 6
    ATTACH = 7


class ChannelType(IntEnum):
    """What a channel is in the guest."""

    #: Written by the host: standard input.
    SINK = 1
    #: Read by the host: standard output and error.
    SOURCE = 2
    TERMINAL = 3
    FILE = 4
    #: Read by the host: records of inotify.
    EVENTS = 5

    @property
    def readable(self) -> bool:
        """Whether data come from it."""
        return self in (ChannelType.SOURCE, ChannelType.TERMINAL, ChannelType.EVENTS)

    @property
    def writable(self) -> bool:
        """Whether data go to it."""
        return self in (ChannelType.SINK, ChannelType.TERMINAL)


def pack(kind: FrameType, number: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One frame."""
    return HEADER.pack(kind, flags, 0, number, len(payload)) + payload + TRAILER


def parts_of(content: bytes) -> Iterator[bytes]:
    """Payloads of frames that make up ``content``; the mark never occurs in one of them."""
    start = 0
    while True:
        stop = min(start + FRAME_MAX, len(content))
        found = content.find(MARK, start, stop)
        if found >= 0:
            stop = found + len(MARK) // 2
        yield content[start:stop]
        start = stop
        if start >= len(content):
            return
