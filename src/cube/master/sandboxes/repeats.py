"""Creates that may be sent again: an idempotency key creates one sandbox, however often its request comes.

The key is recorded in the transaction that records the sandbox, so a crash leaves both or none, and is free again when
the creation fails. Such a creation goes on when its client leaves: whoever has the key may come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson
import structlog
from sqlalchemy import Connection

from cube.master.sandboxes.context import Context
from cube.master.sandboxes.lifecycle import visible_state
from cube.master.sandboxes.requests import CreateSandbox, IdempotencyKey
from cube.master.store.idempotency import Claim, Claimed, IdempotencyStore
from cube.model.errors import Conflict, CubeError, KeyReused, Unavailable
from cube.model.sandbox import Sandbox

log = structlog.get_logger(__name__)

#: How long a key is remembered.
REMEMBERED = timedelta(hours=24)

Recording = Callable[[str], Callable[[Connection], None]]
#: Creates the sandbox; what it is handed makes, of the sandbox's id, the work that is to be recorded with it.
Create = Callable[[CreateSandbox, Recording], Awaitable[Sandbox]]


@dataclass(frozen=True, slots=True)
class _UnderWay:
    claim: Claim
    task: asyncio.Task[Sandbox]


class Repeats:
    """The creates with a key that are under way, and those that the store remembers."""

    def __init__(self, context: Context, store: IdempotencyStore) -> None:
        self._context = context
        self._store = store
        self._under_way: dict[str, _UnderWay] = {}

    async def once(self, key: IdempotencyKey, request: CreateSandbox, create: Create) -> Sandbox:
        """The sandbox of this key: created now, being created by an earlier request, or created before.

        Raises ``KeyReused`` when the key came with another request before, ``Conflict`` when its sandbox has ended, and
        whatever the creation raises.
        """
        claim = self._store.claim(key.caller, key.value, orjson.dumps(request, option=orjson.OPT_SORT_KEYS))
        attempt = self._under_way.get(claim.name) or self._begin(claim, request, create)
        _require_same(attempt.claim.request, claim)
        try:
            return await asyncio.shield(attempt.task)
        except asyncio.CancelledError:
            if attempt.task.cancelled():
                raise Unavailable("the service is shutting down: send the request again with the same key") from None
            raise

    async def close(self) -> None:
        """Cut off what is under way."""
        tasks = [attempt.task for attempt in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def prune(self, now: datetime) -> None:
        """Forget the keys whose time is over."""
        while await self._store.prune(now - REMEMBERED):
            pass

    def _begin(self, claim: Claim, request: CreateSandbox, create: Create) -> _UnderWay:
        task = asyncio.create_task(self._outcome(claim, request, create), name="idempotent-create")
        attempt = self._under_way[claim.name] = _UnderWay(claim, task)
        task.add_done_callback(lambda task: self._ended(claim, task))
        return attempt

    def _ended(self, claim: Claim, task: asyncio.Task[Sandbox]) -> None:
        del self._under_way[claim.name]
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, CubeError):
            log.error("sandbox.create_failed", exc_info=error)

    async def _outcome(self, claim: Claim, request: CreateSandbox, create: Create) -> Sandbox:
        now = self._context.clock.now()
        claimed = await self._store.find(claim, now - REMEMBERED)
        if claimed is not None:
            _require_same(claimed.request, claim)
            return self._created(claimed)
        return await create(request, lambda sandbox_id: self._store.keeping(claim, sandbox_id, now))

    def _created(self, claimed: Claimed) -> Sandbox:
        entry = self._context.registry.find(claimed.sandbox_id)
        if entry is None or entry.ending is not None or visible_state(entry.sandbox.state) is None:
            raise Conflict(
                f"the sandbox {claimed.sandbox_id!r} that this Idempotency-Key created has ended: "
                "use a new key for a new sandbox"
            )
        return entry.sandbox


def _require_same(request: str, claim: Claim) -> None:
    if request != claim.request:
        raise KeyReused("this Idempotency-Key came with another request before: use a new key, or the same request")
