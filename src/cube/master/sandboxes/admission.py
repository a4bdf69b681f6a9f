"""Who may come in: how many sandboxes at once, and how many of them may be starting."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cube.model.errors import LimitExceeded

#: Advice to a client when the node is full: something has to end first.
_RETRY_FULL = 5
#: Advice when only the queue is full: it moves fast.
_RETRY_QUEUE = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one node."""

    #: Sandboxes that exist at once, starting and paused ones included.
    max_sandboxes: int
    #: Sandboxes that start at once. More than a few per core only makes every one of them slower.
    concurrent_creates: int = 4 * (os.cpu_count() or 1)
    #: Creates that may wait for their turn; one more is answered 429.
    queued_creates: int = 1000


class Admission:
    """Lets creates in, in the order in which they came."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turns = asyncio.Semaphore(limits.concurrent_creates)
        self._waiting = 0

    def check(self, existing: int) -> None:
        """Refuse a create with ``LimitExceeded`` when ``existing`` sandboxes fill the node or too many creates wait."""
        if existing >= self._limits.max_sandboxes:
            raise LimitExceeded(
                f"this node runs its {self._limits.max_sandboxes} sandboxes: end one, or try again later",
                retry_after=_RETRY_FULL,
            )
        if self._waiting >= self._limits.queued_creates:
            raise LimitExceeded("too many sandboxes are waiting to be created: try again", retry_after=_RETRY_QUEUE)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn to start a sandbox on the node, and hold it."""
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()
