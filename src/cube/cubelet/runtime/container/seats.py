"""Seats: what a sandbox needs that does not depend on its template, made ahead.

A seat is a link, a cgroup, an empty writable layer, a user namespace with an id range of its own, and a parked first
process: one that is in its namespaces and its cgroup already, has /proc, /sys and /dev put together, and waits to be
told its root. Making one takes a few milliseconds and its slowest parts wait for grace periods of the kernel, so it is
kept off the path of a create; a used seat is taken apart in the background after its sandbox has ended.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import structlog

from cube.cubelet.cgroups.group import Cgroup
from cube.cubelet.cgroups.manager import CgroupManager
from cube.cubelet.lull import Lull
from cube.cubelet.memory import MemoryGauge
from cube.cubelet.runtime.container import rootfs
from cube.cubelet.runtime.container.launcher import Launched, Launcher, discard
from cube.cubelet.runtime.container.seat_work import SeatPlan, entering, lay_out
from cube.cubelet.runtime.container.steps import EnterNet, NewCgroupNamespace, Step
from cube.cubelet.runtime.container.uninterrupted import settled
from cube.cubelet.storage.subvolumes import storage_error
from cube.cubelet.storage.volume import Volume
from cube.helper.process import Caller
from cube.model.errors import CubeError
from cube.model.resources import Resources
from cube.netagent.links import Link, LinkPool
from cube.settings import ID_RANGE, Settings

log = structlog.get_logger(__name__)

#: Seconds before the pool tries again after the machine refused a seat.
_PAUSE_AFTER_FAILURE = 1.0

#: A pause of so many seconds in what is asked for is used to tidy up.
_QUIET_S = 0.25
#: So many are taken apart at once.
_FEW = 16
#: Used seats that are let pile up until there is a pause.
_PILE = 128
#: One seat is kept for so much of the machine's memory where the settings do not say: they take a hundredth of it then.
_MEMORY_PER_SEAT = 48 << 20
_MOST = 512
#: Seconds after which a pool that is larger than it needs to be is looked at again.
_LOOK_AGAIN_S = 5.0


@dataclass(slots=True)
class Seat:
    """One sandbox's place on this machine."""

    link: Link
    cgroup: Cgroup
    #: Descriptor of the user namespace; ``None`` for a seat that was taken over from an earlier run, which needs it
    #: no more.
    user_namespace: int | None
    #: Host id that the sandbox's root is mapped to.
    id_base: int
    #: The parked first process; ``None`` for a seat that was taken over, and once the sandbox was started in it.
    parked: Launched | None

    @property
    def index(self) -> int:
        """Number of the seat: of its link, its id range and its cgroup."""
        return self.link.index

    @property
    def layer_name(self) -> str:
        """Name of its layer in the volume."""
        return layer_name(self.index)

    @property
    def usable(self) -> bool:
        """Whether its parked process still waits; it ends with the launcher."""
        if self.parked is None:
            return False
        # Not select(), which knows the first 1,024 descriptors alone.
        ended = select.poll()
        ended.register(self.parked.pidfd, select.POLLIN)
        return not ended.poll(0)


def layer_name(index: int) -> str:
    """Name of the layer of a seat."""
    return f"seat{index}"


def affordable() -> int:
    """How many seats this machine can keep ready without missing their memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(memory // _MEMORY_PER_SEAT, _MOST)


class SeatPool:
    """Seats of one instance: ``settings.seat_pool`` are made as soon as they are missing, up to
    ``settings.seat_pool_max`` while nobody asks for anything, and none while memory is short. Use from one event loop.
    """

    def __init__(
        self,
        settings: Settings,
        links: LinkPool,
        cgroups: CgroupManager,
        volume: Volume,
        launcher: Launcher,
        memory: MemoryGauge,
        helper: Caller,
    ) -> None:
        """``helper`` makes layers and cgroups."""
        self._helper = helper
        self._id_base = settings.id_base
        self._stage = settings.run_dir / "stage"
        self._least = settings.seat_pool
        self._most = max(self._least, settings.seat_pool_max or affordable())
        self._memory = memory
        self._links = links
        self._cgroups = cgroups
        self._volume = volume
        self._launcher = launcher
        self._ready: deque[Seat] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seats")
        self._lull = Lull(_QUIET_S)
        self._keeper: asyncio.Task[None] | None = None
        self._left: deque[Seat] = deque()

    @property
    def ready(self) -> int:
        """How many seats wait to be taken."""
        return len(self._ready)

    @property
    def target(self) -> int:
        """How many should, given quiet."""
        return 0 if self._memory.short else self._most

    async def start(self) -> None:
        """Make the least number of seats, and then keep the pool filled in the background."""
        await self._fill(min(self._least, self.target))
        self._keeper = asyncio.create_task(self._keep(), name="seats")
        self._lull.stir()

    async def close(self) -> None:
        """Give up the seats that nobody has taken, and finish with those that were left."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._left.extend(self._ready)
        self._ready.clear()
        await self._take_all_apart()

    async def acquire(self) -> Seat:
        """A seat that nobody else has; raises ``LimitExceeded`` when the addresses are used up."""
        self._lull.stir()
        while self._ready:
            seat = self._ready.popleft()
            if seat.usable:
                return seat
            self.leave(seat)
        return await self._make()

    async def adopt(self, index: int, pid: int) -> Seat:
        """The seat of a sandbox that has run since before this service; raises ``HostError`` when it is not whole."""
        link = await self._links.adopt(index, pid)
        return Seat(link, self._cgroups.adopt(str(index)), None, self._base(index), None)

    def leave(self, seat: Seat) -> None:
        """Give a seat back, whose processes have been killed; it is taken apart in the background."""
        self._left.append(seat)
        self._lull.stir()

    async def _keep(self) -> None:
        while True:
            await self._lull.stirred(_LOOK_AGAIN_S)
            await self._lull.wait(self._urgent)
            try:
                await self._tidy()
            except CubeError as error:
                log.warning("seats.refused", reason=error.message)
                await asyncio.sleep(_PAUSE_AFTER_FAILURE)
                self._lull.stir()

    def _urgent(self) -> bool:
        """When seats run out, used ones pile up or memory is short, no pause is waited for; then the work of many is
        done at once, so that most requests meet a machine that does nothing else."""
        target = self.target
        running_out = len(self._ready) <= min(self._least, target) // 4 < target
        return running_out or len(self._ready) > target or self._piled_up

    @property
    def _piled_up(self) -> bool:
        return len(self._left) >= (_PILE if self.target else 1)

    async def _tidy(self) -> None:
        """Make the pool as it should be. When something is asked for meanwhile this is left for the next pause, but for
        what cannot wait."""
        while len(self._ready) > self.target:
            self._left.append(self._ready.popleft())
        if self._piled_up:
            await self._take_all_apart()
        await self._fill(min(self._least, self.target))
        while not self._lull.disturbed and self._left:
            await self._take_some_apart()
        while not self._lull.disturbed and len(self._ready) < self.target:
            self._ready.append(await self._make())

    async def _fill(self, enough: int) -> None:
        while len(self._ready) < enough:
            self._ready.append(await self._make())
            # Under load the pool is never full: the links of used seats come back all the same.
            if len(self._left) >= _FEW:
                await self._take_some_apart()

    async def _take_all_apart(self) -> None:
        while self._left:
            await self._take_some_apart()

    async def _take_some_apart(self) -> None:
        # The next seats can have their links.
        self._links.expect(self.target - len(self._ready))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(self._left), _FEW)):
                group.create_task(self._take_apart(self._left.popleft()))

    async def _make(self) -> Seat:
        link = await self._links.acquire()
        seat = Seat(link, self._cgroups.group(str(link.index)), None, self._base(link.index), None)
        try:
            await self._furnish(seat)
        except BaseException:
            await asyncio.shield(self._take_apart(seat))
            raise
        return seat

    async def _furnish(self, seat: Seat) -> None:
        with ExitStack() as borrowed:
            work = asyncio.get_running_loop().run_in_executor(self._thread, self._lay_out, seat, borrowed)
            places = await settled(work)
            seat.user_namespace = await self._launcher.userns(seat.id_base, ID_RANGE)
            places += [EnterNet(seat.link.namespace), NewCgroupNamespace()]
            seat.parked = await self._launcher.park([*places, *rootfs.ahead(self._stage, seat.id_base)])

    def _lay_out(self, seat: Seat, borrowed: ExitStack) -> list[Step]:
        try:
            try:
                return self._laid_out(seat, borrowed)
            except FileExistsError:  # the layer is nobody's, its removal has failed once
                self._volume.remove(seat.layer_name)
                return self._laid_out(seat, borrowed)
        except OSError as error:
            raise storage_error(error, "the writable layer could not be made") from error

    def _laid_out(self, seat: Seat, borrowed: ExitStack) -> list[Step]:
        """The steps that put a process into its cgroup. Their descriptors live as long as ``borrowed``."""
        work, fds = self._helper.call(lay_out, self._plan(seat))
        steps = entering(seat.cgroup, fds, borrowed)
        self._volume.learn(seat.layer_name, work.subvolume)
        seat.cgroup.learn(Resources(), work.limits)
        return steps

    def _plan(self, seat: Seat) -> SeatPlan:
        gateway = str(seat.link.gateway)
        place = (self._volume.layers_directory, seat.layer_name, seat.id_base, gateway)
        return SeatPlan(*place, self._cgroups.host, self._cgroups.instance, seat.cgroup.name)

    async def _strip(self, seat: Seat) -> None:
        """Let go of what a seat has besides its link and its cgroup; succeeds where there is nothing."""
        try:
            await asyncio.to_thread(self._volume.remove, seat.layer_name)
        except CubeError as error:  # the next seat of this number removes it, or the next start
            log.warning("seat.layer_left", seat=seat.index, reason=error.message)
        if seat.user_namespace is not None:
            os.close(seat.user_namespace)
        if seat.parked is not None:
            await discard(seat.parked)

    async def _take_apart(self, seat: Seat) -> None:
        try:
            await seat.cgroup.kill()
            await seat.cgroup.remove()
        except CubeError as error:
            # The link is not used again, for somebody may still be at its other end.
            log.warning("seat.stuck", seat=seat.index, reason=error.message)
            await self._links.discard(seat.index)
        else:
            self._links.release(seat.link)
        finally:
            await self._strip(seat)

    def _base(self, index: int) -> int:
        return self._id_base + index * ID_RANGE
