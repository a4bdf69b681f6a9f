"""How many of something to keep ready: as many as were asked for within a short span of late, between two bounds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Demand:
    """Counts what is asked for. Two leaky counters: one of what came within ``span`` seconds, and the highest that this
    was, which is forgotten over ``memory`` seconds. A burst raises the target at once; quiet lowers it slowly.
    """

    def __init__(
        self, low: int, high: int, *, span: float, memory: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``low`` are kept ready when nobody asks, and never more than ``high``."""
        self._low = low
        self._high = max(low, high)
        self._span = span
        self._memory = memory
        self._clock = clock
        self._recent = 0.0
        self._highest = 0.0
        self._at = clock()

    def note(self) -> None:
        """One was asked for."""
        self._let_time_pass()
        self._recent += 1.0
        self._highest = max(self._highest, self._recent)

    @property
    def target(self) -> int:
        """How many to keep ready now."""
        self._let_time_pass()
        # What is left of one that was asked for long ago asks for nothing.
        wanted = math.ceil(self._highest - 0.5)
        return min(max(self._low, wanted), self._high)

    def _let_time_pass(self) -> None:
        now = self._clock()
        passed, self._at = now - self._at, now
        self._recent *= math.exp(-passed / self._span)
        self._highest *= math.exp(-passed / self._memory)
