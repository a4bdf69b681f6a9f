"""Seats of machines: a TAP link, a cgroup and an id of the host, all found by one number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from cube.cubelet.cgroups.group import Cgroup
from cube.cubelet.cgroups.manager import CgroupManager
from cube.cubelet.runtime.container.launcher import Launcher
from cube.cubelet.runtime.container.seat_work import entering, entrances
from cube.cubelet.runtime.container.steps import Step
from cube.cubelet.runtime.microvm import command
from cube.model.errors import CubeError
from cube.model.resources import Resources
from cube.netagent.links import TapLink, TapPool
from cube.settings import ID_RANGE, Settings

#: MiB that QEMU may have besides the guest's memory and the code that it translates.
_OVERHEAD_MB: Final = 128
#: Threads of QEMU besides the guest's processors: a few of its own, and those that do its input and output.
_THREADS: Final = 80
T = TypeVar("T")


@dataclass(slots=True)
class Seat:
    """One machine's place on this host."""

    link: TapLink
    #: ``None`` while no machine is in it.
    cgroup: Cgroup | None
    #: Host id of QEMU.
    uid: int

    @property
    def index(self) -> int:
        """Its number."""
        return self.link.index

    @property
    def name(self) -> str:
        """Name of its sockets."""
        return f"seat{self.index}"


class Seats:
    """The seats of one instance. Use from one event loop."""

    def __init__(self, settings: Settings, links: TapPool, cgroups: CgroupManager, launcher: Launcher) -> None:
        self._id_base = settings.id_base
        self._links = links
        self._cgroups = cgroups
        self._launcher = launcher
        #: The manager of cgroups is used by one thread at a time.
        self._one_at_a_time = asyncio.Lock()

    async def acquire(self, resources: Resources) -> Seat:
        """A seat for a machine with these resources; raises ``LimitExceeded`` when the addresses are used up."""
        link = await self._links.acquire()
        seat = Seat(link, None, self._uid(link.index))
        try:
            await self.furnish(seat, resources)
        except BaseException:
            await asyncio.shield(self.leave(seat))
            raise
        return seat

    async def adopt(self, index: int, pid: int) -> Seat:
        """The seat of a machine that has run since before this service; raises ``HostError`` when it is not whole."""
        link = await self._links.adopt(index, pid)
        return Seat(link, self._cgroups.adopt(str(index)), self._uid(index))

    def reserve(self, index: int) -> None:
        """Keep the seat of a machine that is paused, before the links are started; raises ``HostError``."""
        self._links.reserve(index)

    async def renew(self, index: int) -> Seat:
        """A seat that was reserved, without a cgroup. Raises ``HostError``."""
        return Seat(await self._links.renew(index), None, self._uid(index))

    async def furnish(self, seat: Seat, resources: Resources) -> None:
        """Make the cgroup of a seat, with its limits."""
        seat.cgroup = await self._in_turn(self._limited, str(seat.index), resources)

    async def clear(self, seat: Seat) -> None:
        """End what is in a seat, and keep its address for :meth:`furnish`."""
        if seat.cgroup is not None:
            await seat.cgroup.kill()
            await seat.cgroup.remove()
            seat.cgroup = None
        if seat.link.descriptor is None:
            # The interface has gone with the machine, which alone had it.
            seat.link = await self._links.renew(seat.index)

    async def leave(self, seat: Seat) -> None:
        """End what is in a seat and give it back. Raises ``HostError`` when something in it does not end."""
        try:
            if seat.cgroup is not None:
                await seat.cgroup.kill()
                await seat.cgroup.remove()
        except CubeError:
            # The link is not used again, for somebody may still be at its other end.
            await self._links.discard(seat.index)
            raise
        self._links.release(seat.link)

    async def user_namespace(self, seat: Seat, *, ids: int = 1) -> int:
        """Descriptor of a namespace in which the seat's id is root and there are so many of its ids; the caller closes
        it."""
        return await self._launcher.userns(seat.uid, ids)

    async def _in_turn(self, job: Callable[..., T], *arguments: object) -> T:
        async with self._one_at_a_time:
            return await asyncio.to_thread(job, *arguments)

    def _limited(self, name: str, resources: Resources) -> Cgroup:
        cgroup = self._cgroups.create(name)
        memory_mb = resources.memory_mb + command.TRANSLATED_MB + _OVERHEAD_MB
        cgroup.limit(replace(resources, memory_mb=memory_mb, pids=_THREADS + resources.cpu_count))
        return cgroup

    def _uid(self, index: int) -> int:
        return self._id_base + index * ID_RANGE


def places(seat: Seat, borrowed: ExitStack) -> Iterator[Step]:
    """The steps that put a process into a seat's cgroup. Their descriptors live as long as ``borrowed``."""
    if seat.cgroup is not None:
        yield from entering(seat.cgroup, entrances(seat.cgroup), borrowed)
