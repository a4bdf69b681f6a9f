"""How a zygote is asked to fork: one datagram with the descriptors of the new machine, one answer.

The answer comes from the child itself once it is whole, and the kernel says whose it is. The other side is
``native/vmm-guard/fork.c``.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cube.cubelet.runtime.container.first_process import readable
from cube.model.errors import HostError

#: Seconds that a fork gets. It takes 5 to 20 ms, and longer while fifty machines start.
PATIENCE: Final = 30.0
_REQUEST: Final = struct.Struct("<I")
_ANSWER: Final = struct.Struct("<iI")
_CREDENTIALS: Final = struct.Struct("iII")
#: Not in the ``socket`` module of every Python; linux/socket.h.
_SCM_CREDENTIALS: Final = 2


class Stage(IntEnum):
    """Where a fork failed."""

    REQUEST = 1
    CONNECTIONS = 2
    STOP = 3
    FORK = 4
    CGROUP = 5
    DESCRIPTORS = 6
    RIGHTS = 7
    THREADS = 8


class ForkRefused(HostError):
    """A zygote could not fork; it stays as it was, and machines can be started without it."""


@dataclass(frozen=True, slots=True)
class Belongings:
    """Open files of the new machine, borrowed until it has them, in the order of the protocol."""

    #: Listening sockets, in the order of :data:`~cube.cubelet.runtime.microvm.vmm.DOORS`.
    doors: Sequence[int]
    layer: int
    tap: int
    errors: int
    #: The other end of ours.
    monitor_connection: int
    control_connection: int
    #: To join its cgroups by writing ``0``.
    groups: Sequence[int]

    def descriptors(self) -> list[int]:
        """As they are sent."""
        connections = [self.monitor_connection, self.control_connection]
        return [*self.doors, self.layer, self.tap, self.errors, *connections, *self.groups]


def pair() -> tuple[socket.socket, socket.socket]:
    """Our end and the zygote's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


async def fork(sock: socket.socket, uid: int, belongings: Belongings) -> int:
    """Have the zygote behind a socket fork; returns the id of the new process, which has become ``uid`` in the zygote's
    user namespace.

    One at a time. Raises ``ForkRefused``. Not to be cancelled: the child would belong to nobody.
    """
    try:
        socket.send_fds(sock, [_REQUEST.pack(uid)], belongings.descriptors())
        if not await readable(sock.fileno(), PATIENCE):
            raise ForkRefused(f"the zygote did not answer within {PATIENCE:g} seconds")
        data, ancillary, _, _ = sock.recvmsg(_ANSWER.size, socket.CMSG_SPACE(_CREDENTIALS.size))
    except OSError as error:
        raise ForkRefused(f"the zygote has ended: {error.strerror}") from error
    return decode(data, ancillary)


def decode(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> int:
    """The process id in an answer. Raises ``ForkRefused``."""
    if len(data) != _ANSWER.size:
        raise ForkRefused("the zygote has ended")
    failed, stage = _ANSWER.unpack(data)
    if failed:
        raise ForkRefused(f"the zygote could not fork ({_name(stage)}): {os.strerror(failed)}")
    for level, kind, credentials in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SCM_CREDENTIALS):
            pid: int = _CREDENTIALS.unpack(credentials)[0]
            return pid
    raise ForkRefused("the kernel does not say who answers for the zygote")


def _name(stage: int) -> str:
    try:
        return Stage(stage).name.lower()
    except ValueError:
        return f"stage {stage}"
