"""When a sandbox's time is up.

A deadline is written down as time of day, so that it survives a restart, and waited for on a clock that cannot be
set, so that a correction of the time of day neither ends sandboxes early nor keeps them.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import datetime

from cube.master.sandboxes.clock import Clock

#: Longest sleep, in seconds. A sleep stands still while the machine is suspended and the deadlines do not.
_LONGEST_SLEEP = 30.0
#: Superseded heap items tolerated beyond the living ones before the heap is built anew.
_SLACK = 64


class DeadlineQueue:
    """Deadlines by key, earliest first. No clock, no tasks: times are plain seconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._at)

    def set(self, key: str, at: float) -> None:
        """Give ``key`` this deadline instead of any earlier one."""
        self._at[key] = at
        heapq.heappush(self._heap, (at, key))
        if len(self._heap) > 2 * len(self._at) + _SLACK:
            self._rebuild()

    def discard(self, key: str) -> None:
        """Forget the deadline of ``key``, if it has one."""
        self._at.pop(key, None)

    def next_at(self) -> float | None:
        """The earliest deadline."""
        self._drop_superseded()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[str]:
        """Take out all whose deadline is ``now`` or earlier, earliest first."""
        due = []
        while (at := self.next_at()) is not None and at <= now:
            key = heapq.heappop(self._heap)[1]
            del self._at[key]
            due.append(key)
        return due

    def _drop_superseded(self) -> None:
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)

    def _rebuild(self) -> None:
        self._heap = [(at, key) for key, at in self._at.items()]
        heapq.heapify(self._heap)


class DeadlineTimer:
    """Calls ``act(key)`` on the event loop when a deadline has passed."""

    def __init__(self, clock: Clock, act: Callable[[str], None]) -> None:
        self._clock = clock
        self._act = act
        self._queue = DeadlineQueue()
        self._earlier = asyncio.Event()

    def set(self, key: str, end_at: datetime) -> None:
        """Act on ``key`` at that time of day, as the clock tells it now; at once when it has passed."""
        remaining = (end_at - self._clock.now()).total_seconds()
        self.set_after(key, remaining)

    def set_after(self, key: str, seconds: float) -> None:
        """Act on ``key`` after that many seconds."""
        earliest = self._queue.next_at()
        at = self._clock.elapsed() + seconds
        self._queue.set(key, at)
        if earliest is None or at < earliest:
            self._earlier.set()

    def discard(self, key: str) -> None:
        """Do not act on ``key``."""
        self._queue.discard(key)

    async def run(self) -> None:
        """Act on deadlines until cancelled."""
        while True:
            self._earlier.clear()
            for key in self._queue.pop_due(self._clock.elapsed()):
                self._act(key)
            await self._sleep()

    def wake(self) -> None:
        """Look at the clock again now; for a clock that has been moved by hand."""
        self._earlier.set()

    async def _sleep(self) -> None:
        """Until the next deadline, or an earlier one comes in."""
        next_at = self._queue.next_at()
        pause = _LONGEST_SLEEP if next_at is None else next_at - self._clock.elapsed()
        try:
            async with asyncio.timeout(min(max(pause, 0.0), _LONGEST_SLEEP)):
                await self._earlier.wait()
        except TimeoutError:
            return
