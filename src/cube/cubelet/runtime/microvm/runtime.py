"""The microVM runtime: every sandbox is a machine of its own, cloned from the memory of its template."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from typing import Any

import structlog

from cube.cubelet.cgroups.detect import detect
from cube.cubelet.cgroups.manager import CgroupManager
from cube.cubelet.runtime.base import Capabilities, Found, Instance
from cube.cubelet.runtime.container.binary import find_cube_init
from cube.cubelet.runtime.container.host_limits import raise_limits
from cube.cubelet.runtime.container.launcher import Launcher
from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.runtime.microvm import emulator, jail
from cube.cubelet.runtime.microvm.accelerator import Verdict
from cube.cubelet.runtime.microvm.forks import ForkRefused
from cube.cubelet.runtime.microvm.instance import MicroVMInstance
from cube.cubelet.runtime.microvm.layers import Layers
from cube.cubelet.runtime.microvm.machines import Machines
from cube.cubelet.runtime.microvm.pausing import Pauses
from cube.cubelet.runtime.microvm.record import Records
from cube.cubelet.runtime.microvm.recovery import Recovery
from cube.cubelet.runtime.microvm.seats import Seat, Seats
from cube.cubelet.runtime.microvm.snapshots import Snapshots
from cube.cubelet.runtime.microvm.starter import Starter
from cube.cubelet.runtime.microvm.templates import Source, TemplateCaptures
from cube.cubelet.runtime.microvm.vmm import VmmEnded
from cube.cubelet.runtime.microvm.warming import rehearse
from cube.cubelet.runtime.microvm.zygotes import Zygotes
from cube.cubelet.storage.claims import Claims
from cube.cubelet.storage.images import ImageStore
from cube.cubelet.storage.volume import Volume
from cube.model.errors import CubeError, HostError, SandboxNotRunning, SandboxStopped, SnapshotDamaged, Unsupported
from cube.model.resources import ResourceUsage
from cube.model.sandbox import Condition, SandboxSpec
from cube.netagent.agent import NetworkAgent
from cube.settings import Settings

log = structlog.get_logger(__name__)


class MicroVMRuntime:
    """See :class:`cube.cubelet.runtime.base.Runtime`."""

    name = "microvm"

    def __init__(
        self, settings: Settings, images: ImageStore, verdict: Verdict, network: NetworkAgent | None = None
    ) -> None:
        """``network`` is started and closed by whoever made it; without one the runtime has its own."""
        self.capabilities = Capabilities(
            isolation="vm" if verdict.boots else "emulated-vm",
            pause=True,
            pause_frees_memory=True,
            filesystem_snapshot=True,
            memory_snapshot=True,
        )
        self._settings = settings
        self._verdict = verdict
        self._images = images
        self._directory = settings.run_dir / "vm"
        self._volume = Volume(settings)
        self._claims = Claims(settings)
        self._own_network = network is None
        self._network = network or NetworkAgent(settings)
        self._links = self._network.taps
        self._cgroups = CgroupManager(settings, detect(), devices=_devices(verdict))
        self._launcher = Launcher()
        self._seats = Seats(settings, self._links, self._cgroups, self._launcher)
        self._records = Records(self._directory)
        layers = Layers(self._volume)
        self._starter = Starter(settings, images, self._launcher, self._seats)
        self._machines = Machines(
            self._volume, self._claims, layers, self._starter, self._seats, self._records, self._network
        )
        self._templates = TemplateCaptures(settings, self._volume, layers, self._starter, self._seats)
        self._zygotes = Zygotes(settings, self._volume, layers, self._starter, self._seats)
        self._pauses = Pauses(self._machines)
        self._snapshots = Snapshots(self._machines)
        self._recovery = Recovery(self._machines, self._cgroups, self._links)
        self._instances: dict[str, MicroVMInstance] = {}
        #: Seats of sandboxes whose machine has ended and whose address is kept.
        self._kept: dict[str, Seat] = {}

    # -- life of the runtime -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make ready: QEMU, volume, firewall, cgroups, launcher, links. What nobody remembers is cleared."""
        await asyncio.to_thread(self._prepare)
        await self._starter.prepare(await emulator.prepare(self._settings), self._verdict)
        if self._own_network:
            await self._network.start()
        await self._launcher.start(self._directory / "cube-init")
        await self._recovery.reserve()
        await self._links.start()
        await self._recovery.clear()

    def _prepare(self) -> None:
        raise_limits()
        self._records.prepare()
        fresh = self._directory / "cube-init.new"
        shutil.copyfile(find_cube_init(), fresh)
        fresh.chmod(0o755)
        fresh.replace(self._directory / "cube-init")
        self._volume.open()
        self._cgroups.prepare()

    async def close(self) -> None:
        """Let go of everything but the running sandboxes; a later start finds them again."""
        await self._templates.close()
        await self._zygotes.close()
        for instance in self._instances.values():
            await instance.guest.close()
            if instance.started is not None:
                instance.started.vmm.release()
        await self._links.close(remove=False)
        if self._own_network:
            await self._network.close()
        await self._launcher.close()

    async def remove(self) -> None:
        """End every sandbox and remove everything of this instance from the machine but the templates."""
        for sandbox_id in await self.leftovers():
            await self.destroy(sandbox_id)
        await self._cgroups.close(remove=True)
        for name in self._volume.names():
            await in_thread(self._volume.remove, name)
        await self._links.close(remove=True)
        await self._launcher.close()
        if self._own_network:
            await self._network.close(remove=True)
        await in_thread(self._images.unmount_all)
        await in_thread(self._volume.discard)

    # -- sandboxes -----------------------------------------------------------------------------------------------

    async def create(self, spec: SandboxSpec, *, ahead: bool = False) -> MicroVMInstance:
        """Start a sandbox from its template or a snapshot; returns when its inside answers."""
        if spec.host_mounts or spec.volume_mounts:
            raise Unsupported("a microVM cannot share directories of the host: use a node with the container runtime")
        if spec.snapshot_id is not None:
            source = await self._snapshots.source(spec, spec.snapshot_id)
            return self._noted(await self._machines.clone(spec, source))
        source = await self._templates.get(spec.template)
        forked = await self._forked(spec, source, claim=not ahead)
        if forked is not None:
            return self._noted(forked)
        instance = self._noted(await self._machines.clone(spec, source, claim=not ahead))
        if ahead:
            await self._rehearsed(instance)
        return instance

    async def _forked(self, spec: SandboxSpec, source: Source, *, claim: bool) -> MicroVMInstance | None:
        """A fork of its template's zygote, ``None`` where there is none or it does not fork."""
        zygote = await self._zygotes.get(source, spec)
        if zygote is None:
            return None
        try:
            return await self._machines.clone(spec, source, zygote, claim=claim)
        except (ForkRefused, SnapshotDamaged, VmmEnded) as error:
            # Ended meanwhile, perhaps, and its disk removed; or the fork has.
            log.warning("zygote.refused", template=spec.template.template_id, reason=error.message)
            self._zygotes.drop(source)
            return None

    async def _rehearsed(self, instance: MicroVMInstance) -> None:
        try:
            await rehearse(instance.guest, instance.spec.template)
        except BaseException:
            await asyncio.shield(self.destroy(instance.sandbox_id))
            raise

    async def hand_out(self, instance: Instance) -> None:
        """Have it need its template. Raises ``TemplateNotFound``."""
        spec = self._own(instance).spec
        await in_thread(self._claims.make, spec.template.template_id, spec.sandbox_id)

    async def adopt(self, spec: SandboxSpec, wanted: Condition) -> Found:
        """Take over a sandbox of an earlier run of the service; raises ``SandboxNotFound`` when it is gone."""
        found = await self._recovery.adopt(spec, wanted, self._put_down)
        if isinstance(found.instance, MicroVMInstance):
            self._noted(found.instance)
        elif found.condition is Condition.PAUSED and wanted is Condition.RUNNING:
            return Found(wanted, await self.resume(spec, None, memory=True))
        return found

    async def _put_down(self, instance: MicroVMInstance, memory: bool) -> None:
        await (self._pauses.pause(instance) if memory else self._pauses.stop(instance))

    async def pause(self, instance: Instance, *, memory: bool) -> Instance | None:
        """Write its memory down, or not, and end its machine."""
        own = self._own(instance)
        if memory:
            await self._pauses.pause(own)
            return own
        await self._pauses.stop(own)
        self._instances.pop(own.sandbox_id, None)
        return None

    async def resume(self, spec: SandboxSpec, instance: Instance | None, *, memory: bool) -> Instance:
        """Wake a paused machine up, or start one over the files that were kept."""
        own = None if instance is None else self._own(instance)
        if own is not None and memory and not own.guest.closed.is_set():
            await self._pauses.resume(own)
            return own
        if own is not None:
            await self._let_go(own)
        seat = self._kept.pop(spec.sandbox_id, None)
        try:
            return self._noted(await self._pauses.begin_again(spec, seat, memory=memory))
        except CubeError as error:
            raise SandboxStopped(f"the sandbox could not be started again: {error.message}", cause=error) from error

    async def _let_go(self, own: MicroVMInstance) -> None:
        """Forget the guest of a machine that has ended, and keep its seat."""
        await own.guest.close()
        self._instances.pop(own.sandbox_id, None)
        self._kept[own.sandbox_id] = own.seat

    async def snapshot(
        self,
        spec: SandboxSpec,
        instance: Instance | None,
        snapshot_id: str,
        *,
        memory: bool,
        contexts: Mapping[str, Any] | None = None,
    ) -> None:
        """Capture a sandbox; a running one stands still for a moment."""
        own = None if instance is None else self._own(instance)
        await self._snapshots.take(spec, own, snapshot_id, memory=memory, contexts=contexts or {})

    async def rollback(self, spec: SandboxSpec, instance: Instance, snapshot_id: str) -> None:
        """Put a copy of a snapshot in the place of what it is, and end its machine."""
        own = self._own(instance)
        await self._snapshots.rollback(spec, own, snapshot_id)
        await self._let_go(own)

    async def snapshots(self) -> set[str]:
        """Ids of all snapshots."""
        return await self._snapshots.ids()

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; succeeds when there is none."""
        await self._snapshots.delete(snapshot_id)

    async def destroy(self, sandbox_id: str) -> None:
        """End it and remove everything that belonged to it, known or left over; succeeds when there is nothing."""
        instance = self._instances.pop(sandbox_id, None)
        seat = self._kept.pop(sandbox_id, None)
        if instance is not None:
            seat = instance.seat
            await instance.guest.close()
            if instance.started is not None:
                await instance.started.vmm.kill()
        await self._network.release(sandbox_id)
        if seat is not None:
            await self._starter.free(seat)
        else:
            await self._destroy_forgotten(sandbox_id)
        await in_thread(self._volume.remove, sandbox_id)
        self._claims.release(sandbox_id)
        self._records.forget(sandbox_id)

    async def _destroy_forgotten(self, sandbox_id: str) -> None:
        record = self._records.read(sandbox_id)
        if record is not None and record.alive:
            await self._cgroups.destroy(str(record.seat))
            await self._links.discard(record.seat)

    async def stats(self, instance: Instance) -> ResourceUsage:
        """What it uses now, as the host counts: QEMU's process is all of it."""
        own = self._own(instance)
        cgroup = own.seat.cgroup
        if cgroup is None:
            raise SandboxNotRunning(own.sandbox_id, "paused")
        used = cgroup.usage()
        disk = await in_thread(self._volume.usage, own.sandbox_id)
        return ResourceUsage(used.cpu_seconds, used.memory_bytes, used.memory_cache_bytes, disk, used.pids)

    async def leftovers(self) -> set[str]:
        """Ids of sandboxes of which something exists on this machine."""
        return await in_thread(self._recovery.sandboxes)

    # -- inside --------------------------------------------------------------------------------------------------

    def _noted(self, instance: MicroVMInstance) -> MicroVMInstance:
        self._instances[instance.sandbox_id] = instance
        return instance

    def _own(self, instance: Instance) -> MicroVMInstance:
        if not isinstance(instance, MicroVMInstance):
            raise HostError(f"sandbox {instance.sandbox_id!r} belongs to another runtime")
        return instance


def _devices(verdict: Verdict) -> tuple[str, ...]:
    """Devices that machines need besides the harmless ones, for cgroups that allow each by itself."""
    return (":".join(map(str, jail.KVM_DEVICE)),) if verdict.boots else ()
