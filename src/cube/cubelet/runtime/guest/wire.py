"""Messages between the service and process 1 of a sandbox: their kinds and the layout of their bodies.

The format of ``docs/cube-init.md``, and nothing about how messages travel: as datagrams of a socket to a container
(:mod:`cube.cubelet.runtime.container.datagrams`), as frames through a serial port to a microVM
(:mod:`cube.cubelet.runtime.microvm.mux`). What comes from a sandbox is hostile: :class:`Reader` checks every length
against what is left.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

#: Longest body at all.
BODY_MAX = 16 * 1024 * 1024

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")

T = TypeVar("T")


class WireError(Exception):
    """The peer broke the protocol; nothing that it says can be trusted any more, so close the connection."""


class Kind(IntEnum):
    """Kinds of messages, with their numbers on the wire."""

    USERNS = 1
    LAUNCH = 2
    ID_MAP = 3
    NAMESPACE = 0x101
    LAUNCHED = 0x102

    PING = 16
    SPAWN = 17
    SIGNAL = 18
    OPEN = 19
    STAT = 20
    LIST = 21
    MAKE_DIR = 22
    MOVE = 23
    REMOVE = 24
    WATCH = 25
    USER = 26

    # Answered by the relay of a microVM.
    IDENTITY = 48
    CLOCK = 49
    FREEZE = 50
    LIVE = 51
    FOLLOW = 52
    NOTE = 53
    RESIZE = 54
    FILE_READ = 55
    FILE_WRITE = 56
    FILE_ATTRIBUTE = 57
    FILE_IDENTITY = 58
    EVENTS = 59

    READY = 0x110
    PARKED = 0x111
    OK = 0x120
    SPAWNED = 0x121
    EXITED = 0x122
    ENTRY = 0x123
    ENTRIES = 0x124
    WATCHES = 0x125
    USER_INFO = 0x126
    CONFIRMED = 0x130
    SURVIVORS = 0x131
    FILE_DATA = 0x132
    FILE_IS = 0x133
    ERROR = 0x1FF


class Writer:
    """Collects the fields of a body. A value outside its type raises ``struct.error``, a bug of the caller."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def u16(self, value: int) -> Writer:
        self._parts.append(_U16.pack(value))
        return self

    def u32(self, value: int) -> Writer:
        self._parts.append(_U32.pack(value))
        return self

    def i32(self, value: int) -> Writer:
        self._parts.append(_I32.pack(value))
        return self

    def u64(self, value: int) -> Writer:
        self._parts.append(_U64.pack(value))
        return self

    def i64(self, value: int) -> Writer:
        self._parts.append(_I64.pack(value))
        return self

    def data(self, value: bytes) -> Writer:
        self._parts += (_U32.pack(len(value)), value)
        return self

    def text(self, value: str) -> Writer:
        """Text as ``bytes``, in the encoding of file names: what came from the kernel goes back unchanged."""
        return self.data(os.fsencode(value))

    def texts(self, values: Sequence[str]) -> Writer:
        """A list of text."""
        self.u32(len(values))
        for value in values:
            self.text(value)
        return self

    def finish(self) -> bytes:
        """The body."""
        return b"".join(self._parts)


class Reader:
    """Takes the fields of a body one by one; raises :class:`WireError` where the body does not hold them."""

    __slots__ = ("_at", "_body")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def u32(self) -> int:
        return self._number(_U32)

    def i32(self) -> int:
        return self._number(_I32)

    def u64(self) -> int:
        return self._number(_U64)

    def i64(self) -> int:
        return self._number(_I64)

    def data(self) -> bytes:
        size = self._number(_U32)
        end = self._at + size
        if end > len(self._body):
            raise WireError(f"a field of {size} bytes goes beyond the end of its message")
        value = self._body[self._at : end]
        self._at = end
        return value

    def text(self) -> str:
        """``bytes`` as text; bytes that are not UTF-8 become surrogates, as in file names of the standard library."""
        return os.fsdecode(self.data())

    def items(self, item: Callable[[], T], *, item_size: int = 4) -> list[T]:
        """A list of what ``item`` reads, each at least ``item_size`` bytes long."""
        count = self._number(_U32)
        if count * item_size > len(self._body) - self._at:
            raise WireError(f"a list of {count} items cannot fit in what is left of its message")
        return [item() for _ in range(count)]

    def end(self) -> None:
        """Raise unless everything has been read."""
        if self._at != len(self._body):
            raise WireError(f"{len(self._body) - self._at} bytes too many in a message")

    def _number(self, layout: struct.Struct) -> int:
        try:
            (value,) = layout.unpack_from(self._body, self._at)
        except struct.error:
            raise WireError("a message ends inside a field") from None
        self._at += layout.size
        number: int = value
        return number


@dataclass(frozen=True, slots=True)
class Failure:
    """Body of an ``ERROR``: an error number of the kernel and where it happened."""

    errno: int
    stage: int
    detail: str

    @classmethod
    def decode(cls, body: bytes) -> Failure:
        reader = Reader(body)
        failure = cls(reader.i32(), reader.u32(), reader.data().decode(errors="replace"))
        reader.end()
        return failure
