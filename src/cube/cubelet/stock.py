"""Sandboxes that are started before anybody asks for them, where a start has more to do than a few milliseconds.

A sandbox in stock has its own id, address, namespaces and interpreter from the beginning, so nothing of it is shared
with another one or has to be made unlike another one later. What a client may choose and a plain start does not have
(variables, tokens) is kept outside of it, on the node, and given to it when it is handed out. Until then it is no
sandbox of this node to anybody: neither the master nor envd nor the proxy can find it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import structlog

from cube.cubelet.demand import Demand
from cube.cubelet.lull import Lull
from cube.cubelet.memory import MemoryGauge
from cube.model.errors import CubeError
from cube.model.ids import new_sandbox_id
from cube.model.sandbox import SandboxSpec
from cube.model.template import Template

log = structlog.get_logger(__name__)

#: Sandboxes that were asked for within so many seconds are kept ready, for so many seconds after a burst (it fades).
_SPAN_S, _MEMORY_S = 1.0, 120.0
#: A pause of so many seconds in what is asked for is used to start another one.
_QUIET_S = 0.1
#: Sandboxes that are prepared at the same time: each loads a whole interpreter, and requests come first.
_AT_ONCE = 2
#: Seconds after which the stock is looked at again when nothing happens, and after the machine refused a sandbox.
_LOOK_AGAIN_S = 5.0


class Startable(Protocol):
    """A sandbox in stock."""

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        ...

    @property
    def prepared(self) -> bool:
        """Whether everything is done that can be done before it is handed out."""
        ...


S = TypeVar("S", bound=Startable)


@dataclass(frozen=True, slots=True)
class Maker(Generic[S]):
    """How sandboxes are started and ended."""

    #: Starts one; returns before it is prepared.
    start: Callable[[SandboxSpec], Awaitable[S]]
    #: Prepares one; a failure harms nothing and is not raised.
    prepare: Callable[[S], Awaitable[None]]
    end: Callable[[S], Awaitable[None]]
    #: The templates that are there.
    templates: Callable[[], Sequence[Template]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many sandboxes of a template are kept in stock, and none while memory is short."""

    low: int
    high: int
    memory: MemoryGauge
    #: Whether that is worth it for every template, because a start takes long by itself. Of those without an
    #: interpreter none is kept when nobody asks.
    every_template: bool = False


class Stock(Generic[S]):
    """The sandboxes in stock of one node. Use from one event loop."""

    def __init__(self, bounds: Bounds, maker: Maker[S]) -> None:
        self._bounds = bounds
        self._maker = maker
        self._shelves: dict[str, _Shelf[S]] = {}
        #: Chosen for a create that has not come yet, by id.
        self._offered: dict[str, S] = {}
        self._lull = Lull(_QUIET_S)

    def ready(self, template_id: str) -> int:
        """How many wait to be handed out."""
        shelf = self._shelves.get(template_id)
        return 0 if shelf is None else len(shelf.waiting)

    def offer(self, spec: SandboxSpec) -> str | None:
        """Id of a sandbox that is as ``spec`` wants it but for id, tokens and variables. It is kept for whoever
        creates or destroys that id."""
        shelf = self._shelf(spec.template)
        if shelf is None or not _is_plain(spec):
            return None
        shelf.demand.note()
        self._lull.stir()
        chosen = shelf.choose(prepared=bool(spec.env_vars))
        if chosen is None:
            return None
        sandbox_id, sandbox = chosen
        self._offered[sandbox_id] = sandbox
        return sandbox_id

    def take(self, sandbox_id: str) -> S | None:
        """The sandbox that was offered under this id, dead or alive; ``None`` when there is none."""
        return self._offered.pop(sandbox_id, None)

    async def keep(self) -> None:
        """Start and end sandboxes as demand and memory want it, until cancelled."""
        slots = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._lull.wait(self._urgent)
                async with slots:
                    pass  # enough of them are being prepared
                try:
                    busy = await self._step(group, slots)
                except CubeError as error:
                    log.warning("stock.refused", reason=error.message)
                    await asyncio.sleep(_LOOK_AGAIN_S)
                else:
                    if not busy:
                        await self._lull.stirred(_LOOK_AGAIN_S)

    async def close(self) -> None:
        """End everything that was not handed out. Not while :meth:`keep` runs."""
        shelves, self._shelves = self._shelves, {}
        offered, self._offered = self._offered, {}
        left = [*offered.values(), *(one for shelf in shelves.values() for one in shelf.waiting.values())]
        for sandbox in left:
            await self._maker.end(sandbox)

    def _shelf(self, template: Template) -> _Shelf[S] | None:
        """The shelf of a template, made when it is asked for; ``None`` for a template that is not worth it."""
        bounds = self._bounds
        worth_it = worthwhile(template)
        if template.template_id not in self._shelves and (worth_it or bounds.every_template):
            demand = Demand(bounds.low if worth_it else 0, bounds.high, span=_SPAN_S, memory=_MEMORY_S)
            self._shelves[template.template_id] = _Shelf(template, demand)
        return self._shelves.get(template.template_id)

    def _urgent(self) -> bool:
        return any(not shelf.waiting for shelf in self._shelves.values() if self._target(shelf))

    def _target(self, shelf: _Shelf[S]) -> int:
        return 0 if self._bounds.memory.short else shelf.demand.target

    async def _step(self, group: asyncio.TaskGroup, slots: asyncio.Semaphore) -> bool:
        """Start or end one sandbox; ``False`` when there is nothing to do."""
        there = {template.template_id for template in self._maker.templates() if self._shelf(template) is not None}
        for key, shelf in list(self._shelves.items()):
            target = self._target(shelf) if key in there else 0
            if (surplus := shelf.surplus(target)) is not None:
                await self._maker.end(surplus)
                return True
            if len(shelf.waiting) < target:
                await self._add(shelf, group, slots)
                return True
            if key not in there:
                del self._shelves[key]
        return False

    async def _add(self, shelf: _Shelf[S], group: asyncio.TaskGroup, slots: asyncio.Semaphore) -> None:
        spec = plain(shelf.template, new_sandbox_id())
        sandbox = await self._maker.start(spec)
        # It may be handed out from now on: what is left to prepare is less than another one would need.
        shelf.waiting[spec.sandbox_id] = sandbox
        await slots.acquire()
        group.create_task(self._prepare(sandbox, slots))

    async def _prepare(self, sandbox: S, slots: asyncio.Semaphore) -> None:
        try:
            await self._maker.prepare(sandbox)
        finally:
            slots.release()


class _Shelf(Generic[S]):
    """The sandboxes of one template, the oldest first."""

    def __init__(self, template: Template, demand: Demand) -> None:
        self.template = template
        self.demand = demand
        self.waiting: dict[str, S] = {}

    def choose(self, *, prepared: bool) -> tuple[str, S] | None:
        """Take out the one that is furthest on; with ``prepared`` only one that lacks nothing."""
        found = self._usable(lambda one: one.prepared) or (None if prepared else self._usable(lambda one: True))
        return None if found is None else (found, self.waiting.pop(found))

    def surplus(self, target: int) -> S | None:
        """Take out one that is dead, or one too many."""
        dead = next((key for key, one in self.waiting.items() if not one.alive), None)
        if dead is None and len(self.waiting) > target:
            dead = next(reversed(self.waiting))
        return None if dead is None else self.waiting.pop(dead)

    def _usable(self, condition: Callable[[S], bool]) -> str | None:
        found: Iterable[str] = (key for key, one in self.waiting.items() if one.alive and condition(one))
        return next(iter(found), None)


def worthwhile(template: Template) -> bool:
    """Whether a sandbox of this template gains by it: its interpreter takes 20 to 50 times as long as the start."""
    return template.code_interpreter


def plain(template: Template, sandbox_id: str) -> SandboxSpec:
    """What a client that wants nothing special gets."""
    return SandboxSpec(sandbox_id, template, template.resources)


def _is_plain(spec: SandboxSpec) -> bool:
    """Whether it is that, beside what is kept on the node and can be given to a sandbox that has started."""
    return replace(spec, sandbox_id="", env_vars={}, envd_access_token=None) == plain(spec.template, "")
