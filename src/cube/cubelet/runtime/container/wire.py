"""Messages between the service and ``cube-init``: the format of ``docs/cube-init.md``, and nothing about their meaning.

A message is one datagram of an ``AF_UNIX SOCK_SEQPACKET`` socket; descriptors travel with it. What comes from a
sandbox is hostile: :class:`Reader` checks every length against what is left, and :func:`receive` never keeps a
descriptor that nobody asked for, never blocks and never maps memory that the other side could still change.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeVar

#: Longest datagram; a longer message travels in a memory file.
INLINE_MAX = 64 * 1024
#: Longest body at all.
BODY_MAX = 16 * 1024 * 1024
#: Most descriptors of one message, that of a memory file included.
MAX_FDS = 32

_BIG = 0x8000_0000
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_HEADER = struct.Struct("<II")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")
_MFD_EXEC = 0x10
_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * 4)

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

    READY = 0x110
    PARKED = 0x111
    OK = 0x120
    SPAWNED = 0x121
    EXITED = 0x122
    ENTRY = 0x123
    ENTRIES = 0x124
    WATCHES = 0x125
    USER_INFO = 0x126
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


@dataclass(slots=True)
class Message:
    """A received message. It owns the descriptors in ``fds`` until they are taken."""

    kind: int
    id: int
    body: bytes
    fds: list[int] = field(default_factory=list)

    def take_fds(self, count: int) -> list[int]:
        """Hand over the descriptors; raises :class:`WireError`, and closes them, unless there are exactly ``count``."""
        if len(self.fds) != count:
            found = len(self.fds)
            self.close()
            raise WireError(f"a message of kind {self.kind:#x} came with {found} descriptors instead of {count}")
        taken, self.fds = self.fds, []
        return taken

    def close(self) -> None:
        """Close the descriptors that were not taken; may be called twice."""
        fds, self.fds = self.fds, []
        _close_all(fds)


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


def send(sock: socket.socket, kind: int, request_id: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
    """Send one message; the descriptors stay open here.

    Raises ``BlockingIOError`` when a non-blocking socket is full, then nothing was sent; ``OSError`` when the peer is
    gone; ``ValueError`` for a body or a number of descriptors over the limits.
    """
    if len(body) > BODY_MAX or len(fds) >= MAX_FDS:
        raise ValueError(f"a message of {len(body)} bytes with {len(fds)} descriptors is over the limits")
    if len(body) + _HEADER.size > INLINE_MAX:
        _send_big(sock, kind, request_id, body, fds)
    else:
        _send(sock, (_HEADER.pack(kind, request_id), body), fds)


def _send_big(sock: socket.socket, kind: int, request_id: int, body: bytes, fds: Sequence[int]) -> None:
    file = memory_file("cube-body", body)
    try:
        _send(sock, (_HEADER.pack(kind | _BIG, request_id), _U64.pack(len(body))), (*fds, file))
    finally:
        os.close(file)


def _send(sock: socket.socket, parts: Sequence[bytes], fds: Sequence[int]) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg(parts, ancillary, socket.MSG_NOSIGNAL)


def memory_file(name: str, content: bytes, *, executable: bool = False) -> int:
    """A new memory file with this content that nobody can change any more; ``name`` shows in ``/proc`` only."""
    fd = _executable_memory(name) if executable else os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", buffering=0, closefd=False) as file:
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _executable_memory(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)
    except OSError as error:
        # Linux before 6.3 does not know the flag, and every memory file can be executed there.
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)


def receive(sock: socket.socket) -> Message | None:
    """Receive one message; ``None`` when the peer has closed.

    Raises ``BlockingIOError`` when a non-blocking socket has nothing, ``OSError`` when the connection broke,
    :class:`WireError` when the message breaks the rules; in each case no descriptor stays open.
    """
    data, ancillary, flags, _ = sock.recvmsg(INLINE_MAX, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    fds = _received_fds(ancillary)
    if not data:
        _close_all(fds)
        return None
    try:
        return _parse(data, fds, flags)
    except BaseException:
        _close_all(fds)
        raise


def _received_fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def _parse(data: bytes, fds: list[int], flags: int) -> Message:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(data) < _HEADER.size:
        raise WireError("a message is shorter than its header or longer than a datagram may be")
    kind, request_id = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if kind & _BIG:
        kind, body = kind & ~_BIG, _big_body(body, fds)
    return Message(kind, request_id, body, fds)


def _big_body(body: bytes, fds: list[int]) -> bytes:
    reader = Reader(body)
    size = reader.u64()
    reader.end()
    if not fds or size > BODY_MAX:
        raise WireError(f"a long message of {size} bytes came without its memory file or is over the limit")
    file = fds.pop()
    try:
        return _read_sealed(file, size)
    finally:
        os.close(file)


def _read_sealed(file: int, size: int) -> bytes:
    # Only memory files have seals, so this also proves that reading cannot block, as it could on a pipe or on a
    # file system that the sandbox serves itself.
    try:
        seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
    except OSError:
        raise WireError("the body of a long message is not in a memory file") from None
    if seals & _SEALS != _SEALS:
        raise WireError("the memory file of a long message is not sealed")
    if os.fstat(file).st_size != size:
        raise WireError("the memory file of a long message has another length than announced")
    return os.pread(file, size, 0)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
