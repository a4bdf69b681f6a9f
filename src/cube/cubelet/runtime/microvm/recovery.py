"""Takes over what an earlier run of the service has left, and clears what nobody remembers.

What exists is found in three places: the record of a machine that runs, in the run directory; the layer of a sandbox,
in the volume; and the kernel. The table of what follows from them:

| record, and its process lives | manifest in the layer | it is |
|---|---|---|
| yes | no | running |
| yes | yes | paused, or about to wake up: the machine is ended, the capture holds |
| no | with memory | paused |
| no | without memory | stopped |
| no | no | gone |
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import structlog

from cube.cubelet.cgroups.manager import CgroupManager
from cube.cubelet.runtime.base import Found
from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.runtime.microvm import capture
from cube.cubelet.runtime.microvm.capture import Manifest
from cube.cubelet.runtime.microvm.freezing import find_base
from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.cubelet.runtime.microvm.instance import MicroVMInstance
from cube.cubelet.runtime.microvm.machines import ANSWER, Machines
from cube.cubelet.runtime.microvm.pausing import restore_disk
from cube.cubelet.runtime.microvm.record import Record
from cube.cubelet.runtime.microvm.seats import Seat
from cube.cubelet.runtime.microvm.snapshots import of_snapshots
from cube.cubelet.runtime.microvm.starter import Started
from cube.cubelet.runtime.microvm.vmm import Vmm
from cube.model.errors import CubeError, SandboxNotFound, SnapshotDamaged
from cube.model.sandbox import Condition, SandboxSpec
from cube.netagent.links import TapPool

log = structlog.get_logger(__name__)

#: Layers of machines that were booted to be captured, and of those that wait for a sandbox.
_OF_SEATS = re.compile(r"(build|seat)[0-9]+(brought)?")


class Recovery:
    """What is done once, at the start of the service."""

    def __init__(self, machines: Machines, cgroups: CgroupManager, links: TapPool) -> None:
        self._machines = machines
        self._cgroups = cgroups
        self._links = links

    # -- what nobody remembers -----------------------------------------------------------------------------------

    async def reserve(self) -> None:
        """Keep the addresses of paused sandboxes, before the links are started."""
        for name in await in_thread(self._of_sandboxes):
            manifest = await in_thread(self._manifest, name)
            record = self._machines.records.read(name)
            if manifest is None or manifest.seat is None or (record is not None and record.alive):
                continue
            try:
                self._machines.seats.reserve(manifest.seat)
            except CubeError as error:
                log.warning("sandbox.address_lost", sandbox=name, reason=error.message)

    async def clear(self) -> None:
        """End and remove what no record and no layer of a sandbox speaks of."""
        alive = self._machines.records.all()
        seats = {str(record.seat) for record in alive.values()}
        for name in self._cgroups.names() - seats:
            await self._cgroups.destroy(name)
        for index in await self._links.leftovers() - {record.seat for record in alive.values()}:
            await self._links.discard(index)
        await in_thread(self._clear_layers)
        holders = self._of_sandboxes() | set(alive) | self._machines.volume.snapshots()
        await in_thread(self._machines.claims.keep_only, holders)

    def _clear_layers(self) -> None:
        for name in self._machines.volume.names():
            if _OF_SEATS.fullmatch(name) or of_snapshots(name):
                self._machines.volume.remove(name)

    def _of_sandboxes(self) -> set[str]:
        names = self._machines.volume.names()
        return {name for name in names if not _OF_SEATS.fullmatch(name) and not of_snapshots(name)}

    def sandboxes(self) -> set[str]:
        """Ids of all sandboxes of which there is something. Blocks."""
        return self._of_sandboxes() | self._machines.records.names()

    # -- what goes on --------------------------------------------------------------------------------------------

    async def adopt(
        self, spec: SandboxSpec, wanted: Condition, pause: Callable[[MicroVMInstance, bool], Awaitable[None]]
    ) -> Found:
        """Take over one sandbox, see the table above; ``pause`` is used where it runs and should not.

        Raises ``SandboxNotFound``.
        """
        record = self._machines.records.read(spec.sandbox_id)
        manifest = await in_thread(self._manifest, spec.sandbox_id)
        if manifest is not None:
            await self._settle(spec, record)
            return Found(Condition.PAUSED if manifest.has_memory else Condition.STOPPED, None)
        if record is None or not record.alive:
            raise SandboxNotFound(spec.sandbox_id)
        instance = await self._running(spec, record)
        if wanted is Condition.RUNNING:
            return Found(Condition.RUNNING, instance)
        await pause(instance, wanted is Condition.PAUSED)
        return Found(wanted, instance if wanted is Condition.PAUSED else None)

    def _manifest(self, sandbox_id: str) -> Manifest | None:
        try:
            return capture.read(self._machines.layers.path(sandbox_id))
        except (SandboxNotFound, SnapshotDamaged):
            return None

    async def _settle(self, spec: SandboxSpec, record: Record | None) -> None:
        """Have a capture hold: its machine ends, if there is one, and its disk is the one that it was taken with."""
        if record is not None and record.alive:
            await self._cgroups.destroy(str(record.seat))
            await self._links.discard(record.seat)
            self._machines.seats.reserve(record.seat)
        await in_thread(restore_disk, self._machines.layers.path(spec.sandbox_id))
        self._machines.records.forget(spec.sandbox_id)

    async def _running(self, spec: SandboxSpec, record: Record) -> MicroVMInstance:
        try:
            seat = await self._machines.seats.adopt(record.seat, record.pid)
            vmm = Vmm.adopt(record.pid, self._machines.starter.doors(seat))
        except (OSError, CubeError) as error:
            raise SandboxNotFound(spec.sandbox_id) from error
        try:
            await self._machines.network.attach(spec.sandbox_id, seat.link, spec.network)
            await vmm.ready()
            vmm.owns(await in_thread(find_base, record.pid, record.memory))
            # A crash may have come while it stood still to be captured.
            await vmm.cont()
            return await self._instance(spec, record, seat, vmm)
        except CubeError as error:
            log.warning("sandbox.not_adopted", sandbox=spec.sandbox_id, reason=error.message)
            await vmm.give_up()
            raise SandboxNotFound(spec.sandbox_id) from error

    async def _instance(self, spec: SandboxSpec, record: Record, seat: Seat, vmm: Vmm) -> MicroVMInstance:
        control = self._machines.starter.doors(seat).control
        guest = await MicroVMGuest.connect(control, spec.sandbox_id, seconds=ANSWER)
        started = Started(vmm, vmm.owned[0], record.memory, control)
        instance = MicroVMInstance(spec, seat, guest, record.machine_id, record.boot, started, inherited={})
        await guest.identify(instance.identity(fresh=False))
        return instance
