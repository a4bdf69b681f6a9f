"""Takes the samples of what sandboxes use."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from cube.master.sandboxes.context import Context
from cube.master.sandboxes.registry import Entry
from cube.master.sandboxes.usage import UsageSample
from cube.model.errors import SandboxNotFound, SandboxNotRunning
from cube.model.sandbox import SandboxState


class Metering:
    """Samples are taken when somebody asks, so nobody pays for what nobody reads."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def of_one(self, entry: Entry, start: datetime | None, end: datetime | None) -> list[UsageSample]:
        """All samples of a sandbox in that span, one taken now among them."""
        await self._sample(entry)
        return entry.usage.between(start, end)

    async def of_many(self, sandbox_ids: Iterable[str]) -> dict[str, UsageSample]:
        """The newest sample of each that exists and has one."""
        newest = {}
        for sandbox_id in sandbox_ids:
            entry = self._context.registry.find(sandbox_id)
            if entry is not None and entry.ending is None:
                await self._sample(entry)
                newest[sandbox_id] = entry.usage.last()
        return {sandbox_id: sample for sandbox_id, sample in newest.items() if sample is not None}

    async def _sample(self, entry: Entry) -> None:
        clock = self._context.clock
        if entry.sandbox.state is not SandboxState.RUNNING or entry.usage.is_fresh(clock.now()):
            return
        try:
            usage = await self._context.node.stats(entry.sandbox.sandbox_id)
        except (SandboxNotFound, SandboxNotRunning):
            return  # it ended or paused just now; what was sampled before stands
        entry.usage.add(clock.now(), usage)
