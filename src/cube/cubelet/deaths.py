"""The ends of a node's sandboxes: noticing those that nobody has asked for, and telling whoever wants to know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from cube.cubelet.resident import DEAD, Resident
from cube.cubelet.runtime.base import Instance
from cube.model.errors import SandboxStopped

log = structlog.get_logger(__name__)

Callback = Callable[[str], None]


class Deaths:
    """Watches sandboxes in tasks of a group, which belongs to whoever has made it."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._at_death: list[Callback] = []
        self._at_unreachable: list[Callback] = []

    def on_death(self, callback: Callback) -> None:
        """``callback`` is called on the loop with the id of a sandbox that ended by itself."""
        self._at_death.append(callback)

    def on_unreachable(self, callback: Callback) -> None:
        """``callback`` is called with the id of a sandbox before it is paused or ended, and after it died."""
        self._at_unreachable.append(callback)

    def unreachable(self, sandbox_id: str) -> None:
        """Tell that a sandbox is about to be without an address."""
        for callback in self._at_unreachable:
            callback(sandbox_id)

    def watch(self, resident: Resident) -> None:
        """Watch what runs of a sandbox, if anything does, until :meth:`Resident.unwatch`."""
        if resident.instance is not None:
            resident.watcher = self._tasks.create_task(self._until_death(resident, resident.instance))

    @asynccontextmanager
    async def expected(self, resident: Resident) -> AsyncIterator[None]:
        """While an operation ends processes on purpose, that is no death. What is there afterwards is watched again."""
        resident.unwatch()
        try:
            yield
        except SandboxStopped:
            await resident.stopped()
            raise
        finally:
            self.watch(resident)

    async def _until_death(self, resident: Resident, instance: Instance) -> None:
        """Report a death; whoever hears of it has the remains destroyed."""
        await instance.died()
        sandbox_id = resident.spec.sandbox_id
        log.warning("sandbox.died", sandbox=sandbox_id)
        resident.state = DEAD
        self.unreachable(sandbox_id)
        for callback in self._at_death:
            callback(sandbox_id)
