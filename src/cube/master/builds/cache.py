"""What steps of earlier builds gave: snapshots by the key of their layer, the least used of which give way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from cube.cubelet.agent import NodeAgent
from cube.master.builds.layers import Layer
from cube.master.builds.surroundings import Surroundings
from cube.master.sandboxes.clock import Clock
from cube.master.sandboxes.context import log_failure
from cube.master.store.builds import BuildTable
from cube.model.errors import CubeError
from cube.model.ids import new_snapshot_id

log = structlog.get_logger(__name__)


class LayerCache:
    """The layers of one node. A layer is made on the node first and recorded then."""

    def __init__(self, node: NodeAgent, table: BuildTable, clock: Clock, most: int) -> None:
        """At most ``most`` layers are kept."""
        self._node = node
        self._table = table
        self._clock = clock
        self._most = most
        #: The one that was not used for longest comes first.
        self._layers: dict[str, Layer] = {}
        #: How many builds start from a snapshot, and those that are to be removed after the last.
        self._users: Counter[str] = Counter()
        self._leaving: dict[str, Layer] = {}

    async def load(self) -> set[str]:
        """Read the records; returns ids of the snapshots that should exist."""
        layers = sorted(await self._table.layers(), key=lambda layer: layer.used_at)
        self._layers = {layer.key: layer for layer in layers}
        return {layer.snapshot_id for layer in layers}

    async def keep_only(self, present: set[str]) -> None:
        """Forget those whose snapshot is gone."""
        for layer in [layer for layer in self._layers.values() if layer.snapshot_id not in present]:
            del self._layers[layer.key]
            await self._table.delete_layer(layer.key)

    def find(self, key: str) -> Layer | None:
        """The layer with this key, which is used by that."""
        layer = self._layers.pop(key, None)
        if layer is not None:
            self._layers[key] = layer
            log_failure(self._table.touch_layer(key, self._clock.now()))
        return layer

    @asynccontextmanager
    async def in_use(self, layer: Layer) -> AsyncIterator[None]:
        """A block in which the layer stays on the node, whoever makes it anew or needs its place meanwhile."""
        self._users[layer.snapshot_id] += 1
        try:
            yield
        finally:
            self._users[layer.snapshot_id] -= 1
            if self._users[layer.snapshot_id] == 0:
                del self._users[layer.snapshot_id]
                if (leaving := self._leaving.pop(layer.snapshot_id, None)) is not None:
                    await asyncio.shield(self._remove(leaving))

    async def keep(self, key: str, sandbox_id: str, surroundings: Surroundings) -> None:
        """Capture a sandbox as the layer with this key, instead of an earlier one.

        Raises what :meth:`NodeAgent.snapshot` raises.
        """
        layer = Layer(key, new_snapshot_id(), surroundings, self._clock.now())
        await self._node.snapshot(sandbox_id, layer.snapshot_id, memory=False)
        try:
            await self._table.put_layer(layer)
        except BaseException:
            await asyncio.shield(self._remove(layer))
            raise
        before = self._layers.pop(key, None)
        self._layers[key] = layer
        if before is not None:
            await self._remove(before)
        while len(self._layers) > self._most:
            oldest = next(iter(self._layers.values()))
            del self._layers[oldest.key]
            await self._table.delete_layer(oldest.key)
            await self._remove(oldest)

    async def _remove(self, layer: Layer) -> None:
        """What cannot be removed now is by the next start."""
        if layer.snapshot_id in self._users:
            self._leaving[layer.snapshot_id] = layer
            return
        try:
            await self._node.delete_snapshot(layer.snapshot_id)
        except CubeError as error:
            log.warning("build.layer_not_removed", snapshot=layer.snapshot_id, reason=error.message)
