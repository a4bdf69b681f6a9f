"""Two kinds of time: the one that is written down, and the one that only moves forward."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Source of time; tests bring their own."""

    def now(self) -> datetime:
        """The time of day, in UTC. May jump when somebody sets the clock."""
        ...

    def elapsed(self) -> float:
        """Seconds since some moment. Never jumps; goes on while the machine is suspended."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """``CLOCK_REALTIME``."""
        return datetime.now(UTC)

    def elapsed(self) -> float:
        """``CLOCK_BOOTTIME``."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
