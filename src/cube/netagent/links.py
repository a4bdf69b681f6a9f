"""The pool of links: made ahead in the background, handed out at once, used again only when nobody could tell.

What is written down about links is in the kernel and nowhere else: an index gives the interface name and the addresses,
and the namespace of a running sandbox is found through its first process. Links that wait in the pool are held by
descriptors alone, so they vanish with the service, however it ends. Files with bind-mounted namespaces would survive
it, but every mount is copied into each new sandbox's mount namespace: measured, 500 of them raise that from 0.25 ms to
0.6 ms and 1,000 to 1.5 ms.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable
from ipaddress import IPv4Network
from itertools import islice
from typing import Final, Generic, TypeVar

from cube.helper.process import Caller
from cube.model.errors import CubeError, HostError, LimitExceeded, Unavailable
from cube.netagent import namespaces
from cube.netagent.addresses import AddressPlan
from cube.netagent.factory import Factory, L
from cube.netagent.tap import TapFactory, TapLink
from cube.netagent.veth import Link, LinkFactory
from cube.settings import Settings

__all__ = ["Link", "LinkPool", "Pool", "TapLink", "TapPool"]

_log = logging.getLogger(__name__)
_DROPPED_AT_ONCE: Final = 64
#: Released links that are looked at in one visit to the thread, for which somebody may be waiting.
_SORTED_AT_ONCE: Final = 8
T = TypeVar("T")


class Pool(Generic[L]):
    """Links of one kind of one instance. Use from one event loop; all blocking work is done on a thread of its own.

    Pools of several kinds share the instance's addresses: who makes the interface of an index first has it. ``close``
    must be called, also when ``start`` has failed.
    """

    def __init__(self, settings: Settings, factory: Factory[L]) -> None:
        self._plan = factory.plan
        self._target = settings.seat_pool
        #: How many to keep of those that come back as good as new.
        self._kept = self._target
        self._factory = factory
        self._thread = namespaces.namespace_thread(f"{settings.instance}-{factory.kind}")
        self._ready: deque[L] = deque()
        self._waiting: deque[asyncio.Future[L]] = deque()
        self._held: dict[int, L] = {}
        self._released: deque[L] = deque()
        self._doomed: deque[L] = deque()
        #: Indices of all of these and of the one being made.
        self._taken: set[int] = set()
        #: Indices whose interface was there before this pool, and which were neither adopted nor discarded yet.
        self._foreign: set[int] = set()
        # Indices are used in turn, so that an address comes back as late as possible; the random start keeps that up
        # across restarts.
        self._next = secrets.randbelow(self._plan.capacity)
        self._wake = asyncio.Event()
        self._closing = False
        self._keeper: asyncio.Task[None] | None = None

    @property
    def ready(self) -> int:
        """How many links wait to be handed out."""
        return len(self._ready)

    async def start(self) -> None:
        """Begin to fill the pool. ``HostError`` when the network is in use on this machine. Again it does nothing."""
        if self._keeper is not None:
            return
        await self._run(self._factory.check_network)
        self._foreign = await self._run(self._factory.existing) - self._taken
        if self._keeper is None:  # nobody was faster
            self._keeper = asyncio.create_task(self._keep(), name="links")
            self._wake.set()

    async def acquire(self) -> L:
        """A link that nobody else has: at once while the pool lasts, else as soon as it is made (1 to 2 ms).

        ``LimitExceeded`` when every address is in use, ``HostError`` when the kernel refuses to make one.
        """
        if self._keeper is None or self._closing:
            raise Unavailable("the network is not up: the service is starting or stopping")
        link = self._ready.popleft() if self._ready else await self._next_made()
        self._held[link.index] = link
        self._wake.set()
        return link

    def expect(self, count: int) -> None:
        """So many links may be asked for soon: as many are kept of those that come back as good as new, which costs a
        tenth of making them. No more are made ahead for it, and what is not expected any more is dropped."""
        self._kept = max(self._target, count)
        self._wake.set()

    def release(self, link: L) -> None:
        """Give a link back; the caller vouches that no process is left in its namespace, or else uses ``discard``."""
        if self._held.pop(link.index, None) is not None:
            self._released.append(link)
            self._wake.set()

    async def adopt(self, index: int, pid: int | None) -> L:
        """Take over the link of a sandbox that has run since before this service; ``pid`` is its first process.

        Without one the link is looked at alone: a TAP interface stands by itself, a namespace is found through whoever
        is in it.

        ``HostError`` when the process or the interface is gone, or when the two do not belong together.
        """
        if index in self._taken or not 0 <= index < self._plan.capacity:
            raise HostError(f"link {index} cannot be taken over: it is in use or outside of {self._plan.network}")
        self._taken.add(index)
        # Shielded: a descriptor in the hands of the thread must end up in the pool even when nobody waits any more.
        return await asyncio.shield(self._adopt(index, pid))

    def reserve(self, index: int) -> None:
        """Keep the index of a link that is not there now for :meth:`renew`; before :meth:`start`, nobody has it yet.

        ``HostError`` when it is in use or outside of the network.
        """
        if index in self._taken or not 0 <= index < self._plan.capacity:
            raise HostError(f"link {index} cannot be kept: it is in use or outside of {self._plan.network}")
        self._taken.add(index)

    async def renew(self, index: int) -> L:
        """Make the link of an index again that was reserved, or handed out and whose interface went with its process.

        ``HostError`` when its interface is there or the kernel refuses; the index stays reserved.
        """
        if index not in self._taken:
            raise HostError(f"link {index} was not reserved")
        return await asyncio.shield(self._renew(index))

    def changed(self, link: L) -> None:
        """A link that was handed out has another descriptor now, which belongs to the pool from here on."""
        if link.index in self._held:
            self._held[link.index] = link

    def free(self, index: int) -> None:
        """Give up an index that was reserved."""
        if index not in self._held:
            self._taken.discard(index)

    async def leftovers(self) -> set[int]:
        """Indices whose interface exists although this pool does not know it: of sandboxes that were not adopted."""
        existing = await self._run(self._factory.existing)
        self._foreign &= existing
        return existing - {link.index for link in self._known()}

    async def discard(self, index: int) -> None:
        """Cut a link off now, handed out or left over, whatever still runs at its other end."""
        if index not in self._held and any(link.index == index for link in self._known()):
            return  # nobody has it, it is on the way into the pool or out of it
        await self._run(self._factory.cut, index)
        link = self._held.pop(index, None)
        if link is not None:
            link.close()
            self._taken.discard(index)
        self._foreign.discard(index)
        self._wake.set()

    async def close(self, *, remove: bool) -> None:
        """Stop. The links of running sandboxes stay, unless ``remove``: then no interface of this instance is left.

        Closing again does nothing.
        """
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        if self._keeper is not None:
            await self._keeper
        links = self._known()
        for collection in (self._ready, self._released, self._doomed, self._held, self._taken):
            collection.clear()
        await self._run(self._let_go, links, remove)
        self._thread.shutdown()

    def _known(self) -> list[L]:
        return [*self._ready, *self._released, *self._doomed, *self._held.values()]

    async def _renew(self, index: int) -> L:
        try:
            link = await self._run(self._factory.make, index)
        except OSError as error:
            raise HostError(f"cannot make the link {self._plan.interface(index)} again: {error.strerror}") from error
        self._held[index] = link
        return link

    async def _adopt(self, index: int, pid: int | None) -> L:
        try:
            link = await self._run(self._factory.adopt, index, pid)
        except BaseException:
            self._taken.discard(index)
            raise
        self._foreign.discard(index)
        self._held[index] = link
        return link

    def _let_go(self, links: list[L], remove: bool) -> None:
        if remove:
            self._factory.remove_all(links)
        else:
            for link in links:
                link.close()
        self._factory.close()

    async def _next_made(self) -> L:
        waiting: asyncio.Future[L] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._wake.set()
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self._ready.appendleft(waiting.result())
            raise

    async def _keep(self) -> None:
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()
            try:
                while not self._closing and await self._step():
                    pass
            except CubeError as error:
                self._refuse(error)
            except Exception as error:  # noqa: BLE001  the keeper must outlive whatever goes wrong with one link
                _log.exception("the pool of links stumbled")
                self._refuse(HostError(f"no link could be made: {error}"))
        self._refuse(Unavailable("the service is stopping"))

    async def _step(self) -> bool:
        """Do the most urgent thing; ``False`` when there is nothing to do."""
        lacking = bool(self._waiting) or len(self._ready) < self._target
        if self._released:
            await self._sort_out()
        elif lacking and len(self._taken) + len(self._foreign) < self._plan.capacity:
            await self._make_one()
        elif len(self._ready) > self._kept:
            self._doomed.append(self._ready.popleft())
        elif self._doomed:
            await self._drop_some()
        elif self._waiting:
            raise self._all_in_use()
        else:
            return False
        return True

    async def _make_one(self) -> None:
        try:
            self._hand_out(await self._make())
        except CubeError:
            while self._doomed:  # perhaps it is for want of what these hold
                await self._drop_some()
            raise

    async def _drop_some(self) -> None:
        """Drop links, many in one go because the price of a visit to the connection table is per visit."""
        links = [self._doomed.popleft() for _ in range(min(len(self._doomed), _DROPPED_AT_ONCE))]
        await self._run(self._factory.drop, links)
        self._taken.difference_update(link.index for link in links)

    async def _sort_out(self) -> None:
        """Use released links again that are wanted and as good as new."""
        links = list(islice(self._released, _SORTED_AT_ONCE))
        wanted = max(0, len(self._waiting) + self._kept - len(self._ready))
        pristine = await self._run(self._pristine, links[:wanted])
        for number, link in enumerate(links):
            self._released.popleft()
            if number < wanted and pristine[number]:
                self._hand_out(link)
            else:
                self._doomed.append(link)

    def _pristine(self, links: list[L]) -> list[bool]:
        return [self._factory.is_pristine(link) for link in links]

    def _hand_out(self, link: L) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(link)
                return
        self._ready.append(link)

    def _refuse(self, error: CubeError) -> None:
        if not self._closing:
            _log.warning("no link could be made ahead: %s", error)
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(error)

    async def _make(self) -> L:
        for _ in range(self._plan.capacity):
            index = self._take_index()
            try:
                return await self._run(self._factory.make, index)
            except FileExistsError:
                self._taken.discard(index)  # a leftover, or the kernel has not finished taking it away
            except OSError as error:
                self._taken.discard(index)
                raise HostError(f"cannot make the link {self._plan.interface(index)}: {error.strerror}") from error
        raise self._all_in_use()

    def _take_index(self) -> int:
        for _ in range(self._plan.capacity):
            index, self._next = self._next, (self._next + 1) % self._plan.capacity
            if index not in self._taken and index not in self._foreign:
                self._taken.add(index)
                return index
        raise self._all_in_use()

    def _all_in_use(self) -> LimitExceeded:
        return LimitExceeded(f"every address of {self._plan.network} is in use: end sandboxes or try again later")

    async def _run(self, job: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job, *arguments)


def address_plan(settings: Settings) -> AddressPlan:
    """Addresses and names of an instance's links."""
    return AddressPlan(settings.instance, IPv4Network(settings.network_cidr))


class LinkPool(Pool[Link]):
    """Links of containers."""

    def __init__(self, settings: Settings, helper: Caller | None = None) -> None:
        """``helper`` makes them, if there is one."""
        super().__init__(settings, LinkFactory(address_plan(settings), helper))


class TapPool(Pool[TapLink]):
    """Links of microVMs."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, TapFactory(address_plan(settings)))
