"""Who may come in: how many sandboxes at once, and how many of them may be starting."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict, deque
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
    #: Creates that may wait for their turn; one more is answered 429, unless its caller has less than its share.
    queued_creates: int = 1000


class Admission:
    """Lets creates in: callers in turn, the creates of each in the order in which they came.

    So who asks for a thousand at once makes others wait for one of them, not for all.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._free = limits.concurrent_creates
        #: What waits, by caller; the caller whose turn is next comes first. None of the queues is empty.
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def check(self, existing: int, caller: str = "") -> None:
        """Refuse a create with ``LimitExceeded`` when ``existing`` sandboxes fill the node or too many creates wait.

        A full queue still takes the creates of a caller that has less than an equal share of it.
        """
        if existing >= self._limits.max_sandboxes:
            raise LimitExceeded(
                f"this node runs its {self._limits.max_sandboxes} sandboxes: end one, or try again later",
                retry_after=_RETRY_FULL,
            )
        if self._waiting() >= self._limits.queued_creates and not self._has_room_for(caller):
            raise LimitExceeded("too many sandboxes are waiting to be created: try again", retry_after=_RETRY_QUEUE)

    @asynccontextmanager
    async def turn(self, caller: str = "") -> AsyncIterator[None]:
        """Wait for a turn to start a sandbox on the node, and hold it."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(caller)
        try:
            yield
        finally:
            self._pass_on()

    def _waiting(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def _has_room_for(self, caller: str) -> bool:
        callers = len(self._queues.keys() | {caller})
        return len(self._queues.get(caller, ())) < self._limits.queued_creates // callers

    async def _wait(self, caller: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(caller, turn)
            else:  # it came at the same moment
                self._pass_on()
            raise

    def _leave(self, caller: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues[caller]
        queue.remove(turn)
        if not queue:
            del self._queues[caller]

    def _pass_on(self) -> None:
        """Give a turn that is over to the next caller, which goes behind the others then."""
        for caller, queue in self._queues.items():
            turn = next((turn for turn in queue if not turn.done()), None)  # one that is cancelled is about to leave
            if turn is not None:
                self._leave(caller, turn)
                if caller in self._queues:
                    self._queues.move_to_end(caller)
                turn.set_result(None)
                return
        self._free += 1
