"""Messages to and from ``cube-init`` on this host: one datagram of an ``AF_UNIX SOCK_SEQPACKET`` socket each.

Descriptors travel with them. What comes from a sandbox is hostile: :func:`receive` never keeps a descriptor that nobody
asked for, never blocks and never maps memory that the other side could still change.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from cube.cubelet.runtime.guest.wire import BODY_MAX, Reader, WireError

#: Longest datagram; a longer message travels in a memory file.
INLINE_MAX = 64 * 1024
#: Most descriptors of one message, that of a memory file included.
MAX_FDS = 32

_BIG = 0x8000_0000
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_HEADER = struct.Struct("<II")
_U64 = struct.Struct("<Q")
_MFD_EXEC = 0x10
_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * 4)


@dataclass(slots=True)
class Datagram:
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


def receive(sock: socket.socket) -> Datagram | None:
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


def _parse(data: bytes, fds: list[int], flags: int) -> Datagram:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(data) < _HEADER.size:
        raise WireError("a message is shorter than its header or longer than a datagram may be")
    kind, request_id = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if kind & _BIG:
        kind, body = kind & ~_BIG, _big_body(body, fds)
    return Datagram(kind, request_id, body, fds)


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
