"""Snapshots: what a sandbox is at one moment, kept under an id of its own, to start others from or to go back to.

A snapshot is a read-only subvolume with the files of a capture. It shares blocks with what it came of and with what
comes of it, and the file system counts who uses them: removing one never breaks another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.runtime.microvm import capture
from cube.cubelet.runtime.microvm.capture import Manifest
from cube.cubelet.runtime.microvm.freezing import Still
from cube.cubelet.runtime.microvm.instance import MicroVMInstance
from cube.cubelet.runtime.microvm.layers import copy_into
from cube.cubelet.runtime.microvm.machines import Machines
from cube.cubelet.runtime.microvm.templates import Source
from cube.cubelet.storage.sparse import write_out
from cube.model.errors import Conflict, SnapshotDamaged, SnapshotNotFound
from cube.model.sandbox import SandboxSpec

#: What is being captured lies in a layer of this name until it is whole, and so does what a rollback goes back to.
_TAKEN: Final = "taken"
_NEXT: Final = "next"


def of_snapshots(name: str) -> bool:
    """Whether a layer is one of these, and not a sandbox."""
    return name.endswith((_TAKEN, _NEXT))


class Snapshots:
    """The snapshots of one node."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._volume = machines.volume

    async def take(
        self,
        spec: SandboxSpec,
        instance: MicroVMInstance | None,
        snapshot_id: str,
        *,
        memory: bool,
        contexts: Mapping[str, Any],
    ) -> None:
        """Capture a sandbox, which goes on, or stays paused or stopped. Raises ``StorageFull``, ``HostError``."""
        await in_thread(self._volume.require_room)
        await in_thread(self._machines.claims.make, spec.template.template_id, snapshot_id)
        name = f"{spec.sandbox_id}{_TAKEN}"
        try:
            directory = await in_thread(self._machines.layers.make_empty, name, spec.resources)
            if instance is not None and instance.started is not None:
                manifest = await self._of_running(instance, directory, memory=memory)
            else:
                manifest = await in_thread(self._of_layer, spec, directory, memory=memory)
            kept = replace(manifest, contexts=dict(contexts) if manifest.has_memory else None)
            await in_thread(self._keep, name, directory, kept, snapshot_id)
        except BaseException:
            await asyncio.shield(self.delete(snapshot_id))
            raise
        finally:
            await asyncio.shield(in_thread(self._volume.remove, name))

    async def _of_running(self, instance: MicroVMInstance, directory: Path, *, memory: bool) -> Manifest:
        """Everything of one moment: the guest stands still from before the first byte until after the last."""
        layer, spec = self._machines.layers.path(instance.sandbox_id), instance.spec
        # What is dirty on the host is written out before, not while the guest waits.
        await in_thread(write_out, layer / capture.DISK)
        async with self._still(instance, write_out=not memory):
            if memory:
                started = instance.running
                still = await in_thread(Still, started.vmm, started.base, spec.resources.memory_mb << 20)
                await in_thread(self._machines.layers.require_room, still.bytes_to_write)
                await still.take(directory)
            await in_thread(_share, layer / capture.DISK, directory / capture.DISK)
        files = await in_thread(capture.marks, directory, memory=memory)
        if not memory:
            return Manifest(spec.template.template_id, files)
        fit = self._machines.starter.fit(spec.resources)
        return Manifest(spec.template.template_id, files, fit, instance.boot)

    @asynccontextmanager
    async def _still(self, instance: MicroVMInstance, *, write_out: bool) -> AsyncIterator[None]:
        """While the block runs nothing moves in the machine: first its processes stop, where nothing else can hold
        them up, then its processors. ``write_out`` has its file system written to the disk in between."""
        vmm, guest = instance.running.vmm, instance.guest
        await guest.freeze(write_out=write_out)
        try:
            await vmm.stop()
            try:
                yield
            finally:
                await asyncio.shield(vmm.cont())
        finally:
            await asyncio.shield(self._go_on(instance))

    async def _go_on(self, instance: MicroVMInstance) -> None:
        await instance.guest.set_clock()
        await instance.guest.thaw()

    def _of_layer(self, spec: SandboxSpec, directory: Path, *, memory: bool) -> Manifest:
        """The capture that a paused or stopped sandbox is, as a copy. Blocks."""
        layer = self._machines.layers.path(spec.sandbox_id)
        found = capture.read(layer)
        if found is None:
            raise Conflict("the sandbox is neither running nor paused")
        memory = memory and found.has_memory
        for name in (capture.DISK, capture.DEVICES, capture.MEMORY) if memory else (capture.DISK,):
            _share(layer / name, directory / name)
        if not memory:
            return Manifest(spec.template.template_id, {capture.DISK: found.files[capture.DISK]})
        return replace(found, seat=None, machine_id="", is_copy=True)

    def _keep(self, name: str, directory: Path, manifest: Manifest, snapshot_id: str) -> None:
        """Make a complete capture a snapshot, on the disk. Blocks."""
        capture.write(directory, manifest)
        self._volume.snapshot(name, snapshot_id)

    async def source(self, spec: SandboxSpec, snapshot_id: str) -> Source:
        """A snapshot to start from. Raises ``SnapshotNotFound``, ``SnapshotDamaged``, ``SnapshotUnfit``."""
        return await in_thread(self._source, spec, snapshot_id)

    def _source(self, spec: SandboxSpec, snapshot_id: str) -> Source:
        directory = self._volume.snapshot_directory(snapshot_id)
        manifest = capture.read(directory)
        if manifest is None:
            raise SnapshotDamaged(f"snapshot {snapshot_id} has lost its manifest")
        capture.require_fit(manifest, self._machines.starter.fit(spec.resources))
        capture.verify(directory, manifest.files)
        return Source(directory, manifest)

    async def rollback(self, spec: SandboxSpec, instance: MicroVMInstance, snapshot_id: str) -> None:
        """Put a copy of a snapshot in the place of a running sandbox's layer, and end its machine.

        It runs on when this fails with anything but ``SandboxStopped``.
        """
        source = await self.source(spec, snapshot_id)
        name = f"{spec.sandbox_id}{_NEXT}"
        await in_thread(self._prepare, spec, source, name, instance.seat.index)
        machine_ended = False
        try:
            await instance.running.vmm.kill()
            machine_ended = True
        finally:
            if not machine_ended:
                await asyncio.shield(in_thread(self._volume.remove, name))
        await asyncio.shield(self._replaced(spec, instance, name))

    def _prepare(self, spec: SandboxSpec, source: Source, name: str, seat: int) -> None:
        self._volume.require_room()
        self._volume.remove(name)
        directory = self._machines.layers.make_empty(name, spec.resources)
        try:
            for file in source.manifest.files:
                _share(source.directory / file, directory / file)
            capture.write(directory, replace(source.manifest, seat=seat, is_copy=True))
        except BaseException:
            self._volume.remove(name)
            raise

    async def _replaced(self, spec: SandboxSpec, instance: MicroVMInstance, name: str) -> None:
        instance.started = None
        await in_thread(self._volume.rename, name, spec.sandbox_id)
        await instance.guest.close()
        await self._machines.seats.clear(instance.seat)
        self._machines.starter.doors(instance.seat).remove()
        self._machines.records.forget(spec.sandbox_id)

    async def ids(self) -> set[str]:
        """Ids of all snapshots: one that is there is whole."""
        return await in_thread(self._volume.snapshots)

    async def delete(self, snapshot_id: str) -> None:
        """Remove a snapshot; succeeds when there is none."""
        await in_thread(self._delete, snapshot_id)

    def _delete(self, snapshot_id: str) -> None:
        with contextlib.suppress(SnapshotNotFound):
            self._volume.remove_snapshot(snapshot_id)
        self._machines.claims.release(snapshot_id)


def _share(source: Path, target: Path) -> None:
    with target.open("xb") as file:
        os.fchmod(file.fileno(), 0o444 if target.name == capture.MEMORY else 0o600)
        copy_into(source, file.fileno())
