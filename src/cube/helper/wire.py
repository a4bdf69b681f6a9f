"""What the service and its helper tell each other: Python objects, and descriptors beside them.

Both ends are of one program and nobody else has the socket, so objects are pickled.
"""

from __future__ import annotations

import array
import os
import pickle
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Bytes of a message at most, and descriptors with it.
_MESSAGE_MAX: Final = 128 * 1024
_FDS_MAX: Final = 16
_ANCILLARY: Final = socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: with a value, or by an error."""

    value: Any = None
    error: Exception | None = None


def send(sock: socket.socket, content: object, fds: Sequence[int] = ()) -> None:
    """Send one object; raises ``OSError`` when nobody is there, ``ValueError`` when it is too large."""
    message = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    if len(message) > _MESSAGE_MAX or len(fds) > _FDS_MAX:
        raise ValueError(f"a message of {len(message)} bytes with {len(fds)} descriptors is too large")
    if fds:
        socket.send_fds(sock, [message], fds)
    else:
        sock.send(message)


def receive(sock: socket.socket) -> tuple[Any, list[int]] | None:
    """The next object and its descriptors, which are the caller's; ``None`` when the other end is gone."""
    # Not socket.recv_fds, which loses the flag: the descriptors would be inherited by whatever is started.
    message, ancillary, flags, _ = sock.recvmsg(_MESSAGE_MAX, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data)
    if not message:
        return None
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        raise OSError("a message was cut off")
    return pickle.loads(message), fds.tolist()  # noqa: S301


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)
