"""Snapshots of containers: the files of a sandbox, captured while nothing in it moves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cube.cubelet.cgroups.group import Cgroup
from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.storage.claims import Claims
from cube.cubelet.storage.volume import Volume
from cube.model.errors import SnapshotNotFound

#: With more than so many bytes that have not been written out, that is done before anything is stopped.
_MUCH_DIRTY = 4 << 20


class Captures:
    """The snapshots of one node."""

    def __init__(self, volume: Volume, claims: Claims) -> None:
        self._volume = volume
        self._claims = claims

    def ids(self) -> set[str]:
        """Ids of all snapshots: one that is there is whole. Blocks."""
        return self._volume.snapshots()

    async def take(self, snapshot_id: str, layer: str, template_id: str, running: Cgroup | None) -> None:
        """Capture a layer; ``running`` are the processes that may be writing to it, which stand still meanwhile.

        They do so for one commit of the volume (measured: 3 to 15 ms). What is on its way to the disk when this is
        called is written out before. Raises ``StorageFull``, ``TemplateNotFound``, ``HostError``; then nothing is left.
        """
        await in_thread(self._volume.require_room)
        try:
            await in_thread(self._claims.make, template_id, snapshot_id)
            if running is not None and running.dirty_bytes() > _MUCH_DIRTY:
                await in_thread(self._write_out, layer, snapshot_id)
            async with _still(running):
                await in_thread(self._volume.snapshot, layer, snapshot_id)
        except BaseException:
            await asyncio.shield(self.delete(snapshot_id))
            raise

    async def delete(self, snapshot_id: str) -> None:
        """Remove a snapshot; succeeds when there is none."""
        await in_thread(self._delete, snapshot_id)

    def _write_out(self, layer: str, snapshot_id: str) -> None:
        """Have the kernel write out what is dirty in this layer, and only that: a snapshot does it, and is not kept."""
        self._volume.snapshot(layer, snapshot_id)
        self._volume.remove_snapshot(snapshot_id)

    def _delete(self, snapshot_id: str) -> None:
        with contextlib.suppress(SnapshotNotFound):
            self._volume.remove_snapshot(snapshot_id)
        self._claims.release(snapshot_id)


@asynccontextmanager
async def _still(processes: Cgroup | None) -> AsyncIterator[None]:
    """While the block runs none of these runs."""
    if processes is None:
        yield
        return
    try:
        await processes.freeze()
        yield
    finally:
        await processes.thaw()
