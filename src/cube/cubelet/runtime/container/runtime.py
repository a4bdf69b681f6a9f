"""The container runtime: puts seats, images, layers and the launcher together into sandboxes."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from cube.cubelet.cgroups.detect import detect
from cube.cubelet.cgroups.manager import CgroupManager
from cube.cubelet.memory import MemoryGauge
from cube.cubelet.runtime.base import Capabilities, Found, Instance
from cube.cubelet.runtime.container import rootfs
from cube.cubelet.runtime.container.binary import find_cube_init
from cube.cubelet.runtime.container.captures import Captures
from cube.cubelet.runtime.container.first_process import ProcessGone
from cube.cubelet.runtime.container.host_limits import raise_limits
from cube.cubelet.runtime.container.instance import ContainerInstance
from cube.cubelet.runtime.container.kept import KeptLayers, brought_name
from cube.cubelet.runtime.container.launcher import Launched, Launcher
from cube.cubelet.runtime.container.leftovers import Leftovers
from cube.cubelet.runtime.container.record import Record, Records, start_time
from cube.cubelet.runtime.container.seats import Seat, SeatPool
from cube.cubelet.runtime.container.starter import Starter
from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.storage.claims import Claims
from cube.cubelet.storage.images import ImageStore
from cube.cubelet.storage.volume import Volume
from cube.helper.process import Caller, Here
from cube.model.errors import CubeError, HostError, SandboxNotFound, SandboxStopped, Unsupported
from cube.model.resources import ResourceUsage
from cube.model.sandbox import Condition, SandboxSpec
from cube.netagent.agent import NetworkAgent
from cube.settings import Settings

log = structlog.get_logger(__name__)

#: How many more seats are tried when the process that waits in one is gone.
_MORE_SEATS = 2


class ContainerRuntime:
    """See :class:`cube.cubelet.runtime.base.Runtime`."""

    name = "container"
    capabilities = Capabilities(
        isolation="container",
        pause=True,
        pause_frees_memory=False,
        filesystem_snapshot=True,
        memory_snapshot=False,
        volumes=True,
    )

    def __init__(
        self,
        settings: Settings,
        images: ImageStore,
        network: NetworkAgent | None = None,
        helper: Caller | None = None,
    ) -> None:
        """``network`` and ``helper`` are started and closed by whoever made them; without a network the runtime has its
        own, without a helper it does all itself."""
        self._run_dir = settings.run_dir
        self._images = images
        self._volume = Volume(settings)
        self._own_network = network is None
        self._network = network or NetworkAgent(settings)
        self._links = self._network.veths
        self._cgroups = CgroupManager(settings, detect())
        self._launcher = Launcher()
        memory = MemoryGauge(settings.memory_reserve)
        claims = Claims(settings)
        self._kept = KeptLayers(self._volume, claims)
        self._captures = Captures(self._volume, claims)
        self._seats = SeatPool(
            settings, self._links, self._cgroups, self._volume, self._launcher, memory, helper or Here()
        )
        self._records = Records(settings.run_dir / "sandboxes")
        self._leftovers = Leftovers(
            self._records, self._volume, self._kept, self._captures, claims, self._cgroups, self._links
        )
        self._starter = Starter(settings, images, self._volume, self._launcher, self._records)
        self._instances: dict[str, ContainerInstance] = {}
        self._program = settings.run_dir / "cube-init"

    # -- life of the runtime -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make ready: program, volume, firewall, cgroups, launcher, pools. Seats that nobody remembers are cleared."""
        await asyncio.to_thread(self._prepare)
        if self._own_network:
            await self._network.start()
        await self._launcher.start(self._program)
        await self._links.start()
        await self._leftovers.clear()
        await self._seats.start()

    def _prepare(self) -> None:
        raise_limits()
        rootfs.prepare_stage(self._run_dir / "stage")
        self._records.prepare()
        fresh = self._program.with_suffix(".new")
        shutil.copyfile(find_cube_init(), fresh)
        fresh.chmod(0o755)
        fresh.replace(self._program)
        self._volume.open()
        self._cgroups.prepare()

    async def close(self) -> None:
        """Let go of everything but the running sandboxes; a later start finds them again."""
        for instance in self._instances.values():
            await instance.guest.close()
        await self._seats.close()
        await self._links.close(remove=False)
        if self._own_network:
            await self._network.close()
        await self._launcher.close()

    async def remove(self) -> None:
        """End every sandbox and remove everything of this instance from the machine but the templates."""
        for sandbox_id in await self.leftovers():
            await self.destroy(sandbox_id)
        await self._seats.close()
        for name in self._volume.names():
            await asyncio.to_thread(self._volume.remove, name)
        await self._cgroups.close(remove=True)
        await self._links.close(remove=True)
        await self._launcher.close()
        if self._own_network:
            await self._network.close(remove=True)
        await asyncio.to_thread(self._images.unmount_all)
        await asyncio.to_thread(self._volume.discard)

    # -- sandboxes -----------------------------------------------------------------------------------------------

    async def create(self, spec: SandboxSpec, *, ahead: bool = False) -> ContainerInstance:
        """Start a sandbox from its template or a snapshot; returns when its inside answers."""
        self._volume.require_room()
        return await self._in_a_seat(partial(self._create_in, spec))

    async def _create_in(self, spec: SandboxSpec, seat: Seat) -> ContainerInstance:
        layer = seat.layer_name
        try:
            if spec.snapshot_id is not None:
                layer = brought_name(layer)
                await in_thread(self._volume.clone, spec.snapshot_id, layer, disk_mb=spec.resources.disk_mb)
            return await self._started(spec, seat, layer, fresh=True)
        except BaseException:
            await asyncio.shield(self._undo(spec.sandbox_id, seat, layer))
            raise

    async def hand_out(self, instance: Instance) -> None:
        """Nothing to do: it needs its template from the day on that it is stopped."""

    async def adopt(self, spec: SandboxSpec, wanted: Condition) -> Found:
        """Take over a sandbox of an earlier run of the service; raises ``SandboxNotFound`` when it is gone."""
        record = self._records.read(spec.sandbox_id)
        if record is None and self._kept.has(spec.sandbox_id):
            await in_thread(self._kept.keep, spec.sandbox_id, spec.sandbox_id)
            return Found(Condition.STOPPED, None)
        if record is None or not record.alive:
            raise SandboxNotFound(spec.sandbox_id)
        try:
            instance = await self._adopted(spec, record, frozen=wanted is Condition.PAUSED)
        except (OSError, CubeError) as error:
            log.warning("sandbox.not_adopted", sandbox=spec.sandbox_id, reason=str(error))
            raise SandboxNotFound(spec.sandbox_id) from error
        self._instances[spec.sandbox_id] = instance
        if wanted is not Condition.STOPPED:
            return Found(wanted, instance)
        await self._stop(spec, instance)
        return Found(Condition.STOPPED, None)

    async def pause(self, instance: Instance, *, memory: bool) -> Instance | None:
        """Stop its processes where they stand, with their memory; or end them and keep its files."""
        own = self._own(instance)
        if not memory:
            await self._stop(own.spec, own)
            return None
        await own.seat.cgroup.freeze()
        own.frozen = True
        return own

    async def resume(self, spec: SandboxSpec, instance: Instance | None, *, memory: bool) -> Instance:
        """Let its processes go on; or start them from the beginning, in another seat, over the files that were kept."""
        if instance is not None and memory:
            own = self._own(instance)
            own.frozen = False
            await own.seat.cgroup.thaw()
            await own.guest.ping()
            return own
        await self._finish_stopping(spec)
        try:
            return await self._in_a_seat(partial(self._start_again, spec))
        except CubeError as error:
            raise SandboxStopped(f"the sandbox could not be started again: {error.message}", cause=error) from error

    async def snapshot(
        self,
        spec: SandboxSpec,
        instance: Instance | None,
        snapshot_id: str,
        *,
        memory: bool,
        contexts: Mapping[str, Any] | None = None,
    ) -> None:
        """Capture its files; its processes stand still for some milliseconds."""
        if memory:
            raise Unsupported("containers are captured without memory")
        if instance is None:
            await self._finish_stopping(spec)
            await self._captures.take(snapshot_id, spec.sandbox_id, spec.template.template_id, None)
            return
        own = self._own(instance)
        running = None if own.frozen else own.seat.cgroup
        await self._captures.take(snapshot_id, own.layer, spec.template.template_id, running)

    async def rollback(self, spec: SandboxSpec, instance: Instance, snapshot_id: str) -> None:
        """Put a clone of a snapshot in the place of its layer, and end its processes."""
        own = self._own(instance)
        self._volume.require_room()
        own.keeps = True
        try:
            await in_thread(self._kept.prepare, spec.sandbox_id, snapshot_id, spec.resources.disk_mb)
            await self._stop(spec, own)
        except SandboxStopped:
            raise
        except BaseException:
            await in_thread(self._kept.abandon, spec.sandbox_id)
            raise

    async def snapshots(self) -> set[str]:
        """Ids of all snapshots."""
        return await asyncio.to_thread(self._captures.ids)

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; succeeds when there is none. Its clones are layers of their own."""
        await self._captures.delete(snapshot_id)

    async def destroy(self, sandbox_id: str) -> None:
        """End it and remove everything that belonged to it, known or left over; succeeds when there is nothing."""
        instance = self._instances.pop(sandbox_id, None)
        if instance is None:
            await self._leftovers.destroy(sandbox_id)
            return
        await instance.seat.cgroup.kill()
        await instance.guest.close()
        await self._network.release(sandbox_id)
        await self._remove_layers(sandbox_id, instance.seat, instance.layer, keeps=instance.keeps)
        self._records.forget(sandbox_id)
        self._seats.leave(instance.seat)

    async def stats(self, instance: Instance) -> ResourceUsage:
        """What it uses now, as the kernel counts."""
        own = self._own(instance)
        used = own.seat.cgroup.usage()
        disk = await asyncio.to_thread(self._volume.usage, own.layer)
        return ResourceUsage(used.cpu_seconds, used.memory_bytes, used.memory_cache_bytes, disk, used.pids)

    async def leftovers(self) -> set[str]:
        """Ids of sandboxes that are written down or stopped; what is neither is cleared by :meth:`start`."""
        return self._records.names() | self._kept.sandboxes()

    # -- inside --------------------------------------------------------------------------------------------------

    def _own(self, instance: Instance) -> ContainerInstance:
        if not isinstance(instance, ContainerInstance):
            raise HostError(f"sandbox {instance.sandbox_id!r} belongs to another runtime")
        return instance

    async def _started(self, spec: SandboxSpec, seat: Seat, layer: str, *, fresh: bool) -> ContainerInstance:
        """Start it in a seat and note that it runs there; whoever calls undoes what a failure leaves."""
        await self._network.attach(spec.sandbox_id, seat.link, spec.network)
        launched = await self._starter.start(spec, seat, layer, fresh=fresh)
        instance = self._settle(spec, seat, layer, launched)
        self._instances[spec.sandbox_id] = instance
        return instance

    def _settle(self, spec: SandboxSpec, seat: Seat, layer: str, launched: Launched) -> ContainerInstance:
        """Write down who runs there, and connect."""
        os.close(launched.pidfd)
        try:
            record = Record(seat.index, launched.pid, _began(launched.pid), layer)
            # Two system calls on the loop cost less than the way to a thread and back.
            self._records.write(spec.sandbox_id, record)
        except BaseException:
            launched.control.close()
            raise
        return ContainerInstance.of(spec, seat, layer, launched.control)

    async def _adopted(self, spec: SandboxSpec, record: Record, *, frozen: bool) -> ContainerInstance:
        seat = await self._seats.adopt(record.seat, record.pid)
        await self._network.attach(spec.sandbox_id, seat.link, spec.network)
        # A crash may have come between a pause and its record, or the other way round, or while it was captured.
        await (seat.cgroup.freeze() if frozen else seat.cgroup.thaw())
        instance = ContainerInstance.of(spec, seat, record.layer, self._records.connect(spec.sandbox_id))
        instance.frozen = frozen
        instance.keeps = self._kept.has(spec.sandbox_id)
        if instance.keeps:
            await in_thread(self._kept.abandon, spec.sandbox_id)
        return instance

    async def _stop(self, spec: SandboxSpec, instance: ContainerInstance) -> None:
        """End the processes, free the seat and keep the layer, or what a rollback has prepared instead."""
        sandbox_id = spec.sandbox_id
        record = self._records.read(sandbox_id)
        if record is None:
            raise HostError(f"there is no record of sandbox {sandbox_id!r}")
        instance.keeps = True
        await in_thread(self._kept.claim, sandbox_id, spec.template.template_id)
        self._records.replace(sandbox_id, replace(record, stopping=True))
        try:
            await instance.seat.cgroup.kill()
            await instance.guest.close()
            await self._network.release(sandbox_id)
            await in_thread(self._kept.keep, sandbox_id, instance.layer)
        except CubeError as error:
            raise SandboxStopped(f"the sandbox could not be stopped in order: {error.message}", cause=error) from error
        del self._instances[sandbox_id]
        self._records.forget(sandbox_id)
        self._seats.leave(instance.seat)

    async def _finish_stopping(self, spec: SandboxSpec) -> None:
        """Stop what has not been, or not to the end: the volume may have had no room for the last step."""
        instance = self._instances.get(spec.sandbox_id)
        if instance is not None:
            await self._stop(spec, instance)

    async def _in_a_seat(self, start: Callable[[Seat], Awaitable[ContainerInstance]]) -> ContainerInstance:
        """Start in a seat; in another one when the process that waited in it was just killed, as all are when the
        launcher ends."""
        for _ in range(_MORE_SEATS):
            try:
                return await start(await self._seats.acquire())
            except ProcessGone as error:
                log.warning("seat.gone", reason=error.message)
        return await start(await self._seats.acquire())

    async def _start_again(self, spec: SandboxSpec, seat: Seat) -> ContainerInstance:
        try:
            instance = await self._started(spec, seat, spec.sandbox_id, fresh=False)
        except BaseException:
            await asyncio.shield(self._undo(spec.sandbox_id, seat, seat.layer_name))
            raise
        instance.keeps = True
        return instance

    async def _undo(self, sandbox_id: str, seat: Seat, layer: str) -> None:
        """Remove what a failed or cancelled start has made; what cannot be removed now is a leftover for later."""
        try:
            await seat.cgroup.kill()
            await self._network.release(sandbox_id)
            await self._remove_layers(sandbox_id, seat, layer, keeps=False)
        except CubeError as error:
            log.warning("sandbox.undo_failed", sandbox=sandbox_id, reason=error.message)
        finally:
            self._records.forget(sandbox_id)
            self._seats.leave(seat)

    async def _remove_layers(self, sandbox_id: str, seat: Seat, layer: str, *, keeps: bool) -> None:
        """Remove the layers of a sandbox but the seat's own, which goes with the seat."""
        if layer != seat.layer_name:
            await in_thread(self._volume.remove, layer)
        if keeps:
            await in_thread(self._kept.discard, sandbox_id)


def _began(pid: int) -> int:
    began = start_time(pid)
    if began is None:
        raise HostError("the sandbox's first process ended at once")
    return began
