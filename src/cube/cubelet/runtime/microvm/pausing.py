"""Pause to disk: memory and devices are written into the sandbox's layer, and its machine ends; and back.

Crashes of the service in between. A machine is paused from the moment on that its manifest is written; a machine that
still runs then is ended by whoever finds it. A machine that wakes up has a copy of its disk to write to until it has
answered, so that what is captured fits together until then, and is what it falls back to.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import structlog

from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.runtime.microvm import capture
from cube.cubelet.runtime.microvm.capture import Manifest
from cube.cubelet.runtime.microvm.freezing import UNFINISHED_MEMORY, Still
from cube.cubelet.runtime.microvm.instance import MicroVMInstance, new_machine_id
from cube.cubelet.runtime.microvm.machines import ANSWER, Machines
from cube.cubelet.runtime.microvm.seats import Seat
from cube.cubelet.runtime.microvm.starter import Started
from cube.cubelet.runtime.microvm.stopwatch import Stopwatch
from cube.cubelet.runtime.microvm.templates import Source
from cube.cubelet.storage import sparse
from cube.model.errors import CubeError, SandboxNotFound, SandboxStopped
from cube.model.sandbox import SandboxSpec

log = structlog.get_logger(__name__)

#: The disk as it fits to the captured memory, while a machine that wakes up writes to a copy of it.
KEPT_DISK: Final = "disk.kept"


class Pauses:
    """Pauses and resumes the sandboxes of one node."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines

    # -- to the disk ---------------------------------------------------------------------------------------------

    async def pause(self, instance: MicroVMInstance) -> None:
        """Write memory and devices down and end the machine. Raises ``StorageFull``, ``HostError``; then it runs on."""
        layer = self._machines.layers.path(instance.sandbox_id)
        vmm = instance.running.vmm
        # Its files are on the disk, too, for whoever resumes it without its memory.
        await instance.guest.freeze(write_out=True)
        await instance.guest.suspend()
        try:
            await vmm.stop()
            await self._write(instance, layer)
        except BaseException:
            await asyncio.shield(self._go_on(instance, layer))
            raise
        await asyncio.shield(self._gone(instance, layer))

    async def _write(self, instance: MicroVMInstance, layer: Path) -> None:
        started, spec = instance.running, instance.spec
        still = await in_thread(Still, started.vmm, started.base, spec.resources.memory_mb << 20)
        await in_thread(self._machines.layers.require_room, still.bytes_to_write)
        await still.take(layer, name=UNFINISHED_MEMORY)
        await in_thread(self._finish, instance, layer)

    def _finish(self, instance: MicroVMInstance, layer: Path) -> None:
        os.replace(layer / UNFINISHED_MEMORY, layer / capture.MEMORY)
        spec = instance.spec
        manifest = Manifest(
            spec.template.template_id,
            capture.marks(layer, memory=True),
            self._machines.starter.fit(spec.resources),
            instance.boot,
            instance.machine_id,
            instance.seat.index,
            contexts={},
            is_copy=False,
        )
        capture.write(layer, manifest)

    async def _go_on(self, instance: MicroVMInstance, layer: Path) -> None:
        """Let the machine run again that could not be paused."""
        await in_thread(_discard, layer)
        try:
            await instance.running.vmm.cont()
            control = self._machines.starter.doors(instance.seat).control
            await instance.guest.resume(control, seconds=ANSWER)
            await instance.guest.identify(instance.identity(fresh=False))
        except CubeError as error:
            # Its end is noticed like any other.
            log.warning("sandbox.pause_not_undone", sandbox=instance.sandbox_id, reason=error.message)
            await instance.running.vmm.kill()

    async def _gone(self, instance: MicroVMInstance, layer: Path) -> None:
        """The machine is written down; end it, and keep its address."""
        vmm = instance.running.vmm
        instance.started = None
        try:
            await vmm.kill()
            await self._machines.seats.clear(instance.seat)
        except CubeError as error:
            raise SandboxStopped(f"the sandbox was paused, but not in order: {error.message}", cause=error) from error
        self._machines.starter.doors(instance.seat).remove()
        self._machines.records.forget(instance.sandbox_id)

    async def stop(self, instance: MicroVMInstance) -> None:
        """End the machine and keep its disk alone."""
        await instance.guest.freeze(write_out=True)
        layer = self._machines.layers.path(instance.sandbox_id)
        try:
            await instance.running.vmm.kill()
            await instance.guest.close()
            await self._machines.network.release(instance.sandbox_id)
            await in_thread(self._stopped, instance.spec, layer)
            await self._machines.starter.free(instance.seat)
        except CubeError as error:
            raise SandboxStopped(f"the sandbox could not be stopped in order: {error.message}", cause=error) from error
        self._machines.records.forget(instance.sandbox_id)

    def _stopped(self, spec: SandboxSpec, layer: Path) -> None:
        """Have a layer say that its sandbox is stopped."""
        capture.remove(layer, disk=False)
        capture.write(layer, Manifest(spec.template.template_id, capture.marks(layer, memory=False)))

    # -- and back ------------------------------------------------------------------------------------------------

    async def resume(self, instance: MicroVMInstance) -> None:
        """Wake a machine up that this run of the service has paused: what runs in it has lost nothing.

        Raises ``SnapshotDamaged``, ``SnapshotUnfit``, ``HostError``; then it is paused as before.
        """
        spec, seat = instance.spec, instance.seat
        layer, source = await self._source(spec, memory=True)
        await self._machines.seats.furnish(seat, spec.resources)
        try:
            await in_thread(keep_disk, layer)
            instance.started = await self._checked(instance, source, layer)
            await self._answering(instance)
        except BaseException:
            await asyncio.shield(self._fall_back(instance, layer))
            raise
        await in_thread(_awake, layer)

    async def _checked(self, instance: MicroVMInstance, source: Source, layer: Path) -> Started:
        """Load the state while what is loaded is being checked; the guest does not run before both are done."""
        spec = instance.spec
        await in_thread(capture.verify_lengths, layer, source.manifest.files)
        checking = asyncio.create_task(in_thread(capture.verify, layer, source.manifest.files))
        try:
            started = await self._machines.starter.load(
                instance.seat, spec.template, spec.resources, layer, layer / capture.DISK, Stopwatch()
            )
        except CubeError:
            await checking  # which knows better what is wrong
            raise
        finally:
            await asyncio.wait((checking,))
        try:
            checking.result()
        except BaseException:
            await asyncio.shield(started.vmm.give_up())
            raise
        return started

    async def _answering(self, instance: MicroVMInstance) -> None:
        control = self._machines.starter.doors(instance.seat).control
        self._machines.records.write(instance.sandbox_id, instance.record())
        await instance.running.vmm.cont()
        await instance.guest.resume(control, seconds=ANSWER)
        await instance.guest.identify(instance.identity(fresh=False))

    async def _fall_back(self, instance: MicroVMInstance, layer: Path) -> None:
        started, instance.started = instance.started, None
        if started is not None:
            await started.vmm.give_up()
        await in_thread(restore_disk, layer)
        self._machines.records.forget(instance.sandbox_id)
        await self._machines.seats.clear(instance.seat)

    async def begin_again(self, spec: SandboxSpec, seat: Seat | None, *, memory: bool) -> MicroVMInstance:
        """Start a sandbox from its layer alone, as another run of the service, a stop or a rollback has left it.

        ``seat`` is what it has kept; it is given back when this fails. Raises ``SnapshotDamaged``, ``SnapshotUnfit``,
        ``HostError``; then it is as before.
        """
        layer, source = await self._source(spec, memory=memory)
        manifest = source.manifest
        seat = await self._seat(spec, manifest, seat)
        try:
            await in_thread(capture.verify, layer, manifest.files)
            await in_thread(keep_disk, layer)
            machine_id = manifest.machine_id or new_machine_id()
            instance = await self._machines.begin(
                spec, seat, source, layer, machine_id, Stopwatch(), fresh=manifest.is_copy
            )
        except BaseException:
            await asyncio.shield(self._left(spec, seat, layer))
            raise
        await in_thread(_awake, layer)
        return instance

    async def _seat(self, spec: SandboxSpec, manifest: Manifest, kept: Seat | None) -> Seat:
        """A furnished seat: the one that was kept, else the one whose address the memory knows, else any."""
        seats = self._machines.seats
        if kept is None and (manifest.seat is None or not manifest.has_memory):
            return await seats.acquire(spec.resources)
        seat = kept or await seats.renew(manifest.seat or 0)
        await seats.furnish(seat, spec.resources)
        return seat

    async def _left(self, spec: SandboxSpec, seat: Seat, layer: Path) -> None:
        await in_thread(restore_disk, layer)
        self._machines.records.forget(spec.sandbox_id)
        try:
            await self._machines.network.release(spec.sandbox_id)
            await self._machines.starter.free(seat)
        except CubeError as error:
            log.warning("sandbox.resume_leftover", sandbox=spec.sandbox_id, reason=error.message)

    async def _source(self, spec: SandboxSpec, *, memory: bool) -> tuple[Path, Source]:
        """What a sandbox can be started from; without ``memory``, its captured memory is thrown away."""
        layer = self._machines.layers.path(spec.sandbox_id)
        if not memory:
            await in_thread(self._stopped, spec, layer)
        manifest = await in_thread(capture.read, layer)
        if manifest is None:
            raise SandboxNotFound(spec.sandbox_id)
        capture.require_fit(manifest, self._machines.starter.fit(spec.resources))
        return layer, Source(layer, manifest)


def keep_disk(layer: Path) -> None:
    """Give a machine a copy of its disk to write to. Blocks."""
    disk, kept = layer / capture.DISK, layer / KEPT_DISK
    os.replace(disk, kept)
    with kept.open("rb") as source, disk.open("xb") as target:
        os.fchmod(target.fileno(), 0o600)
        sparse.clone(source.fileno(), target.fileno())


def restore_disk(layer: Path) -> None:
    """Put the disk back that fits to the capture; succeeds when it is there. Blocks."""
    kept = layer / KEPT_DISK
    if kept.exists():
        os.replace(kept, layer / capture.DISK)


def _awake(layer: Path) -> None:
    """A machine has answered: what it began with is history. Its memory file stays, for the machine maps it."""
    for name in (capture.MANIFEST, capture.DEVICES, KEPT_DISK):
        (layer / name).unlink(missing_ok=True)


def _discard(layer: Path) -> None:
    """Remove what an unfinished pause has written; the memory file that the machine maps stays."""
    for name in (capture.MANIFEST, capture.DEVICES, UNFINISHED_MEMORY):
        (layer / name).unlink(missing_ok=True)
