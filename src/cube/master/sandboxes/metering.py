"""Takes the samples of what sandboxes use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime

import structlog

from cube.master.sandboxes.context import Context
from cube.master.sandboxes.registry import Entry
from cube.master.sandboxes.usage import UsageSample
from cube.model.errors import CubeError, SandboxNotFound, SandboxNotRunning
from cube.model.sandbox import SandboxState

log = structlog.get_logger(__name__)

#: Seconds between the samples of two sandboxes: where there are many, a round takes longer than its interval.
_PAUSE_S = 0.02


class Metering:
    """Samples are taken every few seconds, and whenever somebody asks."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def run(self, interval: float) -> None:
        """Sample all that run, round by round, until cancelled; a round begins every ``interval`` seconds."""
        while True:
            round_over = asyncio.get_running_loop().time() + interval
            for entry in list(self._context.registry):
                await self._sample_quietly(entry)
                await asyncio.sleep(_PAUSE_S)
            await asyncio.sleep(max(0.0, round_over - asyncio.get_running_loop().time()))

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

    async def _sample_quietly(self, entry: Entry) -> None:
        if entry.ending is not None:
            return
        try:
            await self._sample(entry)
        except CubeError as error:
            log.warning("sandbox.not_sampled", sandbox=entry.sandbox.sandbox_id, reason=error.message)

    async def _sample(self, entry: Entry) -> None:
        clock = self._context.clock
        if entry.sandbox.state is not SandboxState.RUNNING or entry.usage.is_fresh(clock.now()):
            return
        try:
            usage = await self._context.node.stats(entry.sandbox.sandbox_id)
        except (SandboxNotFound, SandboxNotRunning):
            return  # it ended or paused just now; what was sampled before stands
        entry.usage.add(clock.now(), usage)
