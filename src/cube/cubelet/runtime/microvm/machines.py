"""Machines of sandboxes: begun from a capture or from a kernel, made sandboxes of their own, ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import structlog

from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.runtime.microvm import capture
from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.cubelet.runtime.microvm.instance import MicroVMInstance, new_machine_id
from cube.cubelet.runtime.microvm.layers import Layers
from cube.cubelet.runtime.microvm.record import Records
from cube.cubelet.runtime.microvm.seats import Seat, Seats
from cube.cubelet.runtime.microvm.starter import Started, Starter
from cube.cubelet.runtime.microvm.stopwatch import Stopwatch
from cube.cubelet.runtime.microvm.templates import Source
from cube.cubelet.runtime.microvm.zygote import Zygote
from cube.cubelet.storage.claims import Claims
from cube.cubelet.storage.volume import Volume
from cube.model.errors import CubeError
from cube.model.sandbox import SandboxSpec
from cube.netagent.agent import NetworkAgent

log = structlog.get_logger(__name__)

#: Seconds that a guest gets until it answers: one that was restored takes milliseconds, one that boots takes seconds,
#: and either takes longer the more machines start at the same time.
ANSWER = 120.0


class Machines:
    """What both creating and waking up need."""

    def __init__(
        self,
        volume: Volume,
        claims: Claims,
        layers: Layers,
        starter: Starter,
        seats: Seats,
        records: Records,
        network: NetworkAgent,
    ) -> None:
        self.volume = volume
        self.claims = claims
        self.layers = layers
        self.starter = starter
        self.seats = seats
        self.records = records
        self.network = network

    async def clone(
        self, spec: SandboxSpec, source: Source, zygote: Zygote | None = None, *, claim: bool = True
    ) -> MicroVMInstance:
        """A new sandbox that begins where a capture was taken, or over its disk alone where there is no memory in it.

        With the ``zygote`` of that capture it is a fork of it; raises ``ForkRefused`` when that fails. Without
        ``claim`` its template may be removed under it. Leaves nothing behind when it fails or is cancelled.
        """
        watch = Stopwatch()
        await in_thread(self.volume.require_room)
        seat = await self.seats.acquire(spec.resources)
        watch.lap("seat")
        try:
            if claim:
                await in_thread(self.claims.make, spec.template.template_id, spec.sandbox_id)
            disk = source.directory / capture.DISK if zygote is None else zygote.disk
            layer = await in_thread(self.layers.make, spec.sandbox_id, spec.resources, disk)
            watch.lap("layer")
            return await self.begin(spec, seat, source, layer, new_machine_id(), watch, zygote, fresh=True)
        except BaseException:
            await asyncio.shield(self.undo(spec.sandbox_id, seat))
            raise

    async def begin(
        self,
        spec: SandboxSpec,
        seat: Seat,
        source: Source,
        layer: Path,
        machine_id: str,
        watch: Stopwatch,
        zygote: Zygote | None = None,
        *,
        fresh: bool,
    ) -> MicroVMInstance:
        """Start a machine in a furnished seat and make it this sandbox; whoever calls undoes what a failure leaves.

        ``fresh`` is one that nobody has spoken to before. Raises ``GuestNotConfirmed``: then it must be destroyed.
        """
        await self.network.attach(spec.sandbox_id, seat.link, spec.network)
        watch.lap("network")
        template, resources, manifest = spec.template, spec.resources, source.manifest
        disk = layer / capture.DISK
        if zygote is not None:
            started = await zygote.fork(seat, disk, self.starter.doors(seat))
            watch.lap("fork")
            boot = manifest.boot
        elif manifest.has_memory:
            started = await self.starter.load(seat, template, resources, source.directory, disk, watch)
            boot = manifest.boot
        else:
            started = await self.starter.boot(seat, template, resources, layer)
            watch.lap("qemu")
            boot = (await self.starter.boot_files()).fingerprint
        try:
            instance = await self._confirmed(spec, seat, started, machine_id, boot, watch, fresh=fresh)
        except BaseException:
            await asyncio.shield(started.vmm.give_up())
            raise
        if zygote is not None:
            instance.inherited = zygote.contexts
        elif manifest.has_memory:
            instance.inherited = manifest.contexts
        return instance

    async def _confirmed(
        self,
        spec: SandboxSpec,
        seat: Seat,
        started: Started,
        machine_id: str,
        boot: str,
        watch: Stopwatch,
        *,
        fresh: bool,
    ) -> MicroVMInstance:
        connecting = asyncio.create_task(MicroVMGuest.connect(started.control, spec.sandbox_id, seconds=ANSWER))
        try:
            await started.vmm.cont()
            guest = await connecting
        except BaseException:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            raise
        instance = MicroVMInstance(spec, seat, guest, machine_id, boot, started)
        try:
            self.records.write(spec.sandbox_id, instance.record())
            await guest.identify(instance.identity(fresh=fresh))
            watch.lap("guest")
            self.records.write(spec.sandbox_id, replace(instance.record(), began=watch.laps))
        except BaseException:
            await guest.close()
            raise
        return instance

    async def undo(self, sandbox_id: str, seat: Seat) -> None:
        """Remove all that a sandbox has; what cannot be removed now is a leftover for later."""
        try:
            await self.network.release(sandbox_id)
            await self.starter.free(seat)
            await in_thread(self.volume.remove, sandbox_id)
        except CubeError as error:
            log.warning("sandbox.undo_failed", sandbox=sandbox_id, reason=error.message)
            return
        self.claims.release(sandbox_id)
        self.records.forget(sandbox_id)
