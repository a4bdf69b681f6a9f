"""What happens to a sandbox whose time is up."""

from __future__ import annotations

import asyncio

import structlog

from cube.master.sandboxes.context import Context
from cube.master.sandboxes.endings import Endings
from cube.master.sandboxes.logbook import LogLevel
from cube.master.sandboxes.operations import Operations, exclusively
from cube.master.sandboxes.registry import Entry
from cube.model.errors import Conflict, SandboxNotFound
from cube.model.sandbox import OnTimeout, SandboxState

log = structlog.get_logger(__name__)

#: How often a sandbox that should pause may fail to, before it is ended instead.
_PAUSE_TRIES = 3


class Expiry:
    """Ends or pauses sandboxes, as their creator chose."""

    def __init__(self, context: Context, operations: Operations, endings: Endings) -> None:
        self._context = context
        self._operations = operations
        self._endings = endings

    def time_is_up(self, sandbox_id: str) -> None:
        """Begin what the timeout of this sandbox demands; called by the timer."""
        entry = self._context.registry.find(sandbox_id)
        if entry is not None and entry.ending is None:
            self._context.background.start(self._act(entry), f"expiry-{sandbox_id}")

    async def _act(self, entry: Entry) -> None:
        log.info("sandbox.expired", sandbox=entry.sandbox.sandbox_id, then=entry.sandbox.on_timeout.value)
        then = entry.sandbox.on_timeout.value
        self._context.logs.note(entry.sandbox.sandbox_id, "Timeout reached", LogLevel.INFO, then=then)
        if entry.sandbox.on_timeout is OnTimeout.KILL or entry.failed_pauses >= _PAUSE_TRIES:
            await self._endings.finish(entry)
        elif entry.sandbox.state is SandboxState.RUNNING:
            await self._pause(entry)

    async def _pause(self, entry: Entry) -> None:
        try:
            await exclusively(entry, self._operations.pause(entry, entry.sandbox.auto_pause_mode))
        except SandboxNotFound:
            return
        except Conflict:
            await self._try_again(entry)
        except Exception:  # the operation has set a later deadline, at which it is tried again
            entry.failed_pauses += 1
            self._context.logs.note(entry.sandbox.sandbox_id, "Sandbox could not be paused", LogLevel.ERROR)
            log.exception("sandbox.auto_pause_failed", sandbox=entry.sandbox.sandbox_id, times=entry.failed_pauses)

    async def _try_again(self, entry: Entry) -> None:
        """Look again once the operation that was faster is over. One that made it run has set a new deadline; after one
        that left it running, as a capture does, the old one stands."""
        if entry.operation is not None:
            await asyncio.wait({entry.operation})
        if entry.ending is None and entry.sandbox.state is SandboxState.RUNNING:
            self._context.timer.set(entry.sandbox.sandbox_id, entry.sandbox.end_at)
