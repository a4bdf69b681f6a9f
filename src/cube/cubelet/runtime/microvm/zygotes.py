"""The zygotes of one node: one for each captured template that sandboxes are made of, made at the first of them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import structlog

from cube.cubelet.memory import MemoryGauge
from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.runtime.microvm import capture, forks
from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.cubelet.runtime.microvm.layers import Layers
from cube.cubelet.runtime.microvm.machines import ANSWER
from cube.cubelet.runtime.microvm.seats import Seat, Seats
from cube.cubelet.runtime.microvm.starter import Starter
from cube.cubelet.runtime.microvm.stopwatch import Stopwatch
from cube.cubelet.runtime.microvm.templates import Source
from cube.cubelet.runtime.microvm.vmm import Vmm
from cube.cubelet.runtime.microvm.warming import prepare
from cube.cubelet.runtime.microvm.zygote import Zygote
from cube.cubelet.storage.volume import Volume
from cube.model.errors import CubeError
from cube.model.sandbox import SandboxSpec
from cube.model.template import Template
from cube.settings import Settings

log = structlog.get_logger(__name__)

#: Seconds after its last fork that one is kept.
KEPT: Final = 900.0
#: Seconds between two looks for those that are needed no more.
_LOOK: Final = 30.0
#: Seconds after which one that could not be made is tried again.
_AGAIN: Final = 60.0


class Zygotes:
    """Use from one event loop. Only emulated machines are forked: a hardware-assisted one has nothing to translate, and
    what the kernel keeps for it cannot be forked."""

    def __init__(self, settings: Settings, volume: Volume, layers: Layers, starter: Starter, seats: Seats) -> None:
        self._most = settings.vm_zygotes
        self._memory = MemoryGauge(settings.memory_reserve)
        self._volume = volume
        self._layers = layers
        self._starter = starter
        self._seats = seats
        self._ready: dict[Path, Zygote] = {}
        self._making: dict[Path, asyncio.Task[None]] = {}
        #: When a zygote could not be made, in seconds of the event loop.
        self._failed: dict[Path, float] = {}
        self._tending: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def get(self, source: Source, spec: SandboxSpec) -> Zygote | None:
        """The zygote of a template's capture, made when there is none; whoever else asks meanwhile waits for the same.

        ``None`` where sandboxes are started without one.
        """
        template = spec.template
        if not self._most or self._starter.accelerator != "tcg" or spec.resources != template.resources:
            return None
        key = source.directory
        zygote = self._ready.get(key)
        if zygote is not None and zygote.alive:
            return zygote
        self.drop(source)
        now = asyncio.get_running_loop().time()
        if self._closed or now < self._failed.get(key, -_AGAIN) + _AGAIN or self._memory.short:
            return None
        if key not in self._making:
            self._making[key] = asyncio.create_task(self._make(source, template), name=f"zygote {key.name}")
            self._making[key].add_done_callback(lambda _: self._making.pop(key, None))
        await asyncio.wait((self._making[key],))
        return self._ready.get(key)

    def drop(self, source: Source) -> None:
        """End the zygote of a capture, if there is one."""
        zygote = self._ready.pop(source.directory, None)
        if zygote is not None:
            self._later(self._end(zygote))

    async def close(self) -> None:
        """End all of them; what was forked lives on."""
        self._closed = True
        tasks = [*self._making.values(), *([] if self._tending is None else [self._tending])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        zygotes, self._ready = list(self._ready.values()), {}
        await asyncio.gather(*self._ending, *(self._end(zygote) for zygote in zygotes))

    # -- inside --------------------------------------------------------------------------------------------------

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _make(self, source: Source, template: Template) -> None:
        try:
            zygote = await self._made(source, template)
        except CubeError as error:
            log.warning("zygote.failed", template=template.template_id, reason=error.message)
            self._failed[source.directory] = asyncio.get_running_loop().time()
            return
        self._failed.pop(source.directory, None)
        zygote.used = asyncio.get_running_loop().time()
        self._ready[source.directory] = zygote
        log.info("zygote.ready", template=template.template_id)
        self._make_room()
        if self._tending is None or self._tending.done():
            self._tending = asyncio.create_task(self._tend(), name="zygotes")

    async def _tend(self) -> None:
        while self._ready:
            await asyncio.sleep(_LOOK)
            self._make_room()

    def _make_room(self) -> None:
        """End those that are too many, were not used for long, or whose template has gone; all of them when memory is
        short."""
        keep = 0 if self._memory.short else self._most
        late = asyncio.get_running_loop().time() - KEPT
        by_use = sorted(self._ready.items(), key=lambda item: item[1].used, reverse=True)
        for number, (key, zygote) in enumerate(by_use):
            if number >= keep or zygote.used < late or not (key / capture.MANIFEST).exists():
                del self._ready[key]
                self._later(self._end(zygote))

    async def _made(self, source: Source, template: Template) -> Zygote:
        seat = await self._seats.acquire(template.resources)
        name = f"build{seat.index}"
        try:
            layer = await in_thread(self._layers.make, name, template.resources, source.directory / capture.DISK)
            return await self._started(seat, source, template, layer / capture.DISK)
        except BaseException:
            await asyncio.shield(self._clear(seat, name))
            raise

    async def _started(self, seat: Seat, source: Source, template: Template, disk: Path) -> Zygote:
        with ExitStack() as undo:
            ours, theirs = forks.pair()
            undo.callback(ours.close)
            with theirs:
                started = await self._starter.load(
                    seat, template, template.resources, source.directory, disk, Stopwatch(), forks=theirs.fileno()
                )
            try:
                control, contexts = await self._prepared(seat, source, template, started.vmm)
            except BaseException:
                await asyncio.shield(started.vmm.give_up())
                raise
            undo.pop_all()
        return Zygote(started, seat, disk, contexts, ours, control)

    async def _prepared(
        self, seat: Seat, source: Source, template: Template, machine: Vmm
    ) -> tuple[socket.socket, Mapping[str, Any] | None]:
        """Have it stand still as its forks will begin; returns the connection to its guest, and its contexts."""
        control = self._starter.doors(seat).connect("control")
        try:
            control.setblocking(False)
            await machine.cont()
            guest = await MicroVMGuest.connect(control.dup(), seat.name, seconds=ANSWER)
            contexts = await prepare(guest, template, source.manifest.contexts)
            await machine.stop()
        except BaseException:
            control.close()
            raise
        return control, contexts

    async def _end(self, zygote: Zygote) -> None:
        await zygote.end()
        await self._clear(zygote.seat, f"build{zygote.seat.index}")

    async def _clear(self, seat: Seat, name: str) -> None:
        try:
            await self._starter.free(seat)
            await in_thread(self._volume.remove, name)
        except CubeError as error:
            log.warning("zygote.leftover", seat=seat.index, reason=error.message)
