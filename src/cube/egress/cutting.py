"""Ends connections of a sandbox to the outbound proxy, whatever streams are open on them.

Envoy applies new rules to new requests; a WebSocket, a stream of events or a long download would go on under the rules
that it began with. The kernel ends a socket for whoever may administrate its network: both sides see a reset.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Iterator

_log = logging.getLogger(__name__)

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
#: All states but TIME_WAIT (6), CLOSE (7) and LISTEN (10), in which there is nobody to be cut off.
_STATES = 0xFFF & ~(1 << 6 | 1 << 7 | 1 << 10)
_HEADER = struct.Struct("=IHHII")
#: Family, protocol, extensions, states; then the socket's identity.
_REQUEST_HEAD = struct.Struct("=BBBxI")
#: Ports, local and remote address, device, cookie.
_IDENTITY = struct.Struct("=4s16s16sI8s")
#: Family, state, timer, retransmissions before the identity; timeout, queues and user id behind it.
_ANSWER_HEAD, _ANSWER_TAIL = struct.Struct("=BBBB"), struct.Struct("=IIII")
_RECEIVE_BYTES = 1 << 16
_TIMEOUT_SECONDS = 5.0


def cut(address: str, uid: int) -> int:
    """End the TCP connections that a user's processes have with an IPv4 address; returns how many those were.

    Raises ``OSError`` when the kernel does not say which there are. Blocks for about a millisecond per thousand
    connections of the machine.
    """
    peer = socket.inet_aton(address)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as diag:
        diag.settimeout(_TIMEOUT_SECONDS)
        found = [identity for identity in _identities(diag, uid) if identity[20:24] == peer]
        return sum(_destroy(diag, identity) for identity in found)


def _identities(diag: socket.socket, uid: int) -> Iterator[bytes]:
    """The identities of a user's TCP sockets over IPv4."""
    for kind, body in _answers(diag, _message(_BY_FAMILY, _DUMP, bytes(_IDENTITY.size))):
        if kind == _ERROR:
            _raise(body)
        begin = _ANSWER_HEAD.size
        owner = _ANSWER_TAIL.unpack_from(body, begin + _IDENTITY.size)[3]
        if owner == uid:
            yield body[begin : begin + _IDENTITY.size]


def _destroy(diag: socket.socket, identity: bytes) -> bool:
    diag.sendall(_message(_DESTROY, _ACK, identity))
    body = diag.recv(_RECEIVE_BYTES)[_HEADER.size :]
    code: int = -struct.unpack_from("=i", body)[0]
    # What has ended by itself meanwhile is as good.
    if code not in (0, errno.ENOENT):
        _log.error("the kernel does not end a connection: %s", errno.errorcode.get(code, code))
    return code == 0


def _message(kind: int, flags: int, identity: bytes) -> bytes:
    body = _REQUEST_HEAD.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, _STATES) + identity
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body


def _answers(diag: socket.socket, message: bytes) -> Iterator[tuple[int, bytes]]:
    diag.sendall(message)
    while True:
        data = diag.recv(_RECEIVE_BYTES)
        while data:
            length, kind, *_ = _HEADER.unpack_from(data)
            if kind == _DONE:
                return
            yield kind, data[_HEADER.size : length]
            data = data[(length + 3) & ~3 :]


def _raise(body: bytes) -> None:
    code = -struct.unpack_from("=i", body)[0]
    raise OSError(code, "the kernel does not list connections")
