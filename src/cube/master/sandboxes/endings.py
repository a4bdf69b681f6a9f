"""The end of a sandbox, which always succeeds: from every state, during every operation, and asked for twice."""

from __future__ import annotations

import asyncio

import structlog

from cube.master.sandboxes.context import Context, log_failure
from cube.master.sandboxes.registry import Entry
from cube.model.errors import CubeError, SandboxNotFound
from cube.model.sandbox import SandboxState

log = structlog.get_logger(__name__)

#: Seconds before a node that failed to remove a sandbox is asked again; doubled each time up to the longest.
_FIRST_RETRY = 0.5
_LONGEST_RETRY = 60.0


class Endings:
    """Ends sandboxes, each once."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def begin(self, entry: Entry) -> asyncio.Task[None]:
        """Decide that a sandbox ends. From now on it cannot be found; the task is done when it is gone."""
        if entry.ending is None:
            entry.ending = self._context.background.start(self._end(entry), f"end-{entry.sandbox.sandbox_id}")
        return entry.ending

    async def finish(self, entry: Entry) -> None:
        """End a sandbox, or wait for its end."""
        await asyncio.shield(self.begin(entry))

    async def delete(self, entry: Entry) -> None:
        """End a sandbox for a client. Of several that ask at once, one succeeds, the others get ``SandboxNotFound``."""
        if entry.ending is not None:
            await asyncio.shield(entry.ending)
            raise SandboxNotFound(entry.sandbox.sandbox_id)
        await self.finish(entry)

    async def _end(self, entry: Entry) -> None:
        if entry.operation is not None:
            entry.operation.cancel()
            await asyncio.wait({entry.operation})
        log_failure(self._context.move(entry, SandboxState.KILLING))
        if await self._destroyed(entry):
            await self._record(entry)
        else:
            self._context.background.start(self._retry(entry), f"retry-end-{entry.sandbox.sandbox_id}")

    async def _retry(self, entry: Entry) -> None:
        """Ask the node again until it has removed the sandbox, which counts as existing until then."""
        delay = _FIRST_RETRY
        while True:
            await asyncio.sleep(delay)
            if await self._destroyed(entry):
                break
            delay = min(2 * delay, _LONGEST_RETRY)
        await self._record(entry)

    async def _destroyed(self, entry: Entry) -> bool:
        try:
            await self._context.node.destroy(entry.sandbox.sandbox_id)
        except Exception:  # whatever went wrong, the sandbox must still end: it is asked again
            log.exception("sandbox.destroy_failed", sandbox=entry.sandbox.sandbox_id)
            return False
        return True

    async def _record(self, entry: Entry) -> None:
        sandbox_id, ended_at = entry.sandbox.sandbox_id, self._context.clock.now()
        self._context.registry.end(sandbox_id, ended_at)
        self._context.logs.end(sandbox_id)
        log.info("sandbox.ended", sandbox=sandbox_id)
        try:
            store = self._context.store
            await (store.end(sandbox_id, ended_at) if entry.ran else store.abandon(sandbox_id, ended_at))
        except CubeError:  # it is gone all the same, and the next start finds that out
            log.exception("sandbox.end_not_recorded", sandbox=sandbox_id)
