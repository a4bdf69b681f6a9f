"""A machine that stands still to be forked: what its emulator has translated, every fork has, too.

Code in an emulated guest is translated when it first runs, in each process anew, and that is most of what a clone from
a file spends. A zygote has been what its forks will be, a sandbox that has run a command, and is stopped; a fork shares
memory and translated code with it, copied on write, and begins with what is its own: sockets, disk, interface, cgroup,
user. It then confirms an identity like every other clone.

How a process with threads forks is told in ``native/vmm-guard/fork.c``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cube.cubelet.cgroups.group import Cgroup
from cube.cubelet.runtime.container.uninterrupted import settled
from cube.cubelet.runtime.microvm import forks
from cube.cubelet.runtime.microvm.forks import Belongings, ForkRefused
from cube.cubelet.runtime.microvm.layers import opened
from cube.cubelet.runtime.microvm.seats import Seat
from cube.cubelet.runtime.microvm.starter import Started
from cube.cubelet.runtime.microvm.vmm import DOORS, Doors, Vmm
from cube.settings import ID_RANGE


@dataclass(slots=True)
class Zygote:
    """Made by :class:`~cube.cubelet.runtime.microvm.zygotes.Zygotes`."""

    started: Started
    seat: Seat
    #: What the disk of a fork is a copy of.
    disk: Path
    #: What the interpreter of a fork has, see :mod:`cube.envd.interpreter.handover`.
    contexts: Mapping[str, Any] | None
    requests: socket.socket
    #: The connection to its guest, which stays open and is used no more.
    control: socket.socket
    #: When it was last used, in seconds of the event loop.
    used: float = 0.0
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def alive(self) -> bool:
        """Whether its process is there."""
        return not self.started.vmm.ended.is_set()

    async def fork(self, seat: Seat, disk: Path, doors: Doors) -> Started:
        """A machine in a furnished seat, with a copy of :attr:`disk` as its own; it takes commands and stands still.

        Raises ``ForkRefused``, ``SnapshotDamaged``, ``HostError``; then, and when it is cancelled, there is no process.
        """
        async with self._one_at_a_time:
            if not self.alive:
                raise ForkRefused("the zygote has ended")
            self.used = asyncio.get_running_loop().time()
            making = asyncio.ensure_future(self._forked(seat, disk, doors))
            try:
                return await settled(making)
            except asyncio.CancelledError:
                if making.exception() is None:
                    await asyncio.shield(making.result().give_up())
                raise

    async def _forked(self, seat: Seat, disk: Path, doors: Doors) -> Started:
        uid = 1 + seat.index
        if uid >= ID_RANGE or seat.link.descriptor is None or seat.cgroup is None:
            raise ForkRefused("the seat is not one that a fork can take")
        with ExitStack() as undo:
            words, errors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, words)
            monitor, its_monitor = _connection(undo)
            control, its_control = _connection(undo)
            with ExitStack() as given, its_monitor, its_control:
                given.callback(os.close, errors)
                pid = await forks.fork(
                    self.requests,
                    uid,
                    Belongings(
                        doors=[given.enter_context(doors.listen(door)).fileno() for door in DOORS],
                        layer=given.enter_context(opened(disk, os.O_RDWR)),
                        tap=seat.link.descriptor,
                        errors=errors,
                        monitor_connection=its_monitor.fileno(),
                        control_connection=its_control.fileno(),
                        groups=_groups(seat.cgroup, given),
                    ),
                )
            machine = Vmm.forked(pid, self._opened(pid, self.seat.uid + uid), monitor, words)
            undo.pop_all()
        machine.owns(os.dup(self.started.base))
        return Started(machine, machine.owned[0], self.started.memory, control)

    def _opened(self, pid: int, uid: int) -> int:
        """The process that has answered; raises ``ForkRefused`` when it is gone, or another than asked for."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise ForkRefused("the fork has ended at once") from None
        if _user(pid) != uid:
            os.close(pidfd)
            raise ForkRefused("the fork has not become the user that it should be")
        return pidfd

    async def end(self) -> None:
        """End it, after the fork that is being made; forks live on. May be called twice."""
        async with self._one_at_a_time:
            self.requests.close()
            self.control.close()
            await self.started.vmm.give_up()


def _connection(undo: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Our end, closed by ``undo``, and the other."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    undo.callback(ours.close)
    ours.setblocking(False)
    return ours, theirs


def _groups(cgroup: Cgroup, given: ExitStack) -> list[int]:
    groups = cgroup.procs_fds()
    for group in groups:
        given.callback(os.close, group)
    return groups


def _user(pid: int) -> int | None:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Uid:"):
                ids = set(line.split()[1:])
                return int(ids.pop()) if len(ids) == 1 else None
    return None
