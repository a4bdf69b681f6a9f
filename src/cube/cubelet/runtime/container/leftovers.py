"""What an earlier run of the service left on the machine: found by its records, its layers and the kernel's objects."""

from __future__ import annotations

import asyncio

from cube.cubelet.cgroups.manager import CgroupManager
from cube.cubelet.runtime.container.captures import Captures
from cube.cubelet.runtime.container.kept import KeptLayers
from cube.cubelet.runtime.container.record import Record, Records
from cube.cubelet.runtime.container.seats import layer_name
from cube.cubelet.storage.claims import Claims
from cube.cubelet.storage.volume import Volume
from cube.netagent.links import LinkPool


class Leftovers:
    """Clears away what nobody needs any more, and finishes what was begun."""

    def __init__(
        self,
        records: Records,
        volume: Volume,
        kept: KeptLayers,
        captures: Captures,
        claims: Claims,
        cgroups: CgroupManager,
        links: LinkPool,
    ) -> None:
        self._records = records
        self._volume = volume
        self._kept = kept
        self._captures = captures
        self._claims = claims
        self._cgroups = cgroups
        self._links = links

    async def clear(self) -> None:
        """Remove seats in which nothing runs, with their layers. Before the pools start."""
        found = {name: self._records.read(name) for name in self._records.names()}
        for name, record in found.items():
            if record is not None and record.stopping:
                await self._finish_stopping(name, record)
        remembered = {record.seat: record for record in found.values() if record is not None and record.alive}
        for name in self._cgroups.names():
            if not name.isdecimal() or int(name) not in remembered:
                await self._cgroups.destroy(name)
        used = {layer for seat, record in remembered.items() for layer in (layer_name(seat), record.layer)}
        for name in self._kept.of_seats() - used:
            await asyncio.to_thread(self._volume.remove, name)
        for index in await self._links.leftovers() - set(remembered):
            await self._links.discard(index)
        await asyncio.to_thread(self._claims.keep_only, self._kept.sandboxes() | self._captures.ids())

    async def destroy(self, sandbox_id: str) -> None:
        """Remove a sandbox that no runtime holds; succeeds when there is nothing."""
        record = self._records.read(sandbox_id)
        if record is not None and record.alive:
            await self._cgroups.destroy(str(record.seat))
            await self._links.discard(record.seat)
            for layer in {layer_name(record.seat), record.layer}:
                await asyncio.to_thread(self._volume.remove, layer)
        await asyncio.to_thread(self._kept.discard, sandbox_id)
        self._records.forget(sandbox_id)

    async def _finish_stopping(self, sandbox_id: str, record: Record) -> None:
        """End what an earlier run had begun to stop. Its seat is cleared like any that nobody remembers."""
        await self._cgroups.destroy(str(record.seat))
        await asyncio.to_thread(self._kept.keep, sandbox_id, record.layer)
        self._records.forget(sandbox_id)
