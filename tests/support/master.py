"""A master over a fake node and a real database, which can be killed and started again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cube.master.sandboxes.admission import Limits
from cube.master.sandboxes.requests import CreateSandbox
from cube.master.sandboxes.service import SandboxService
from cube.master.store.store import Store
from cube.model.sandbox import Sandbox, SandboxState
from cube.settings import Settings
from support.fake_clock import FakeClock
from support.fake_node import FakeNode


class Master:
    """``service`` works on ``node`` and on the database in ``directory``; time is moved by hand."""

    def __init__(self, directory: Path, node: FakeNode, clock: FakeClock, limits: Limits | None = None) -> None:
        self.settings = Settings(
            state_dir=directory, default_timeout=300, max_timeout=3600, max_sandboxes=50, metrics_interval=0
        )
        self.node = node
        self.clock = clock
        self._limits = limits
        self.store: Store
        self.service: SandboxService

    async def start(self) -> None:
        """Start the service."""
        self.store = await Store.open(self.settings.database)
        self.service = SandboxService(self.node, self.store, self.settings, clock=self.clock, limits=self._limits)
        await self.service.start()

    async def stop(self) -> None:
        """Shut down in order."""
        await self.service.close()
        await self.store.close()

    async def create(self, seconds: int = 60, **wishes: Any) -> Sandbox:
        """A sandbox from ``base``."""
        return await self.service.create(CreateSandbox("base", seconds, **wishes))

    async def pass_time(self, seconds: float) -> None:
        """Let time pass and the timer see it."""
        self.clock.advance(seconds)
        self.service.timer.wake()
        await settle()

    async def recorded(self) -> dict[str, SandboxState]:
        """States of what has not ended, as the database has them."""
        return {r.sandbox.sandbox_id: r.sandbox.state for r in await self.store.sandboxes.live()}


@asynccontextmanager
async def running_master(
    directory: Path, node: FakeNode, clock: FakeClock, limits: Limits | None = None
) -> AsyncIterator[Master]:
    """A master that is shut down at the end of the block."""
    master = Master(directory, node, clock, limits)
    await master.start()
    try:
        yield master
    finally:
        await master.stop()


async def settle() -> None:
    """Let everything that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, which it does after some steps of the loop and the database."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  any condition, not only those that have an event
            await asyncio.sleep(0.001)
