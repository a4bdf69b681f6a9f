"""How much output that nobody listens to the service reads and throws away for one sandbox.

A process is never held up because nobody listens, so its pipes are read all the time. Without a limit, one
``yes`` in the background would keep the event loop of the whole node busy.
"""

from __future__ import annotations

#: Bytes per second and sandbox, about a thousand reads of a full pipe.
RATE = 64 * 1024 * 1024
#: What a read costs at least: many small ones are as dear as few big ones.
MINIMUM_COST = 8 * 1024
#: Seconds of reading that may be caught up at once.
_BURST = 0.05


class Throttle:
    """A token bucket; times are seconds of a monotonic clock."""

    __slots__ = ("_free_at",)

    def __init__(self) -> None:
        self._free_at = 0.0

    def spend(self, count: int, now: float) -> float:
        """Account for a read of ``count`` bytes; returns how many seconds to wait before the next."""
        cost = max(count, MINIMUM_COST) / RATE
        self._free_at = max(self._free_at, now - _BURST) + cost
        return max(0.0, self._free_at - now)
