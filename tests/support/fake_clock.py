"""Time that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """A ``cube.master.sandboxes.clock.Clock``."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 6, 1, 12, tzinfo=UTC)
        self.seconds = 1000.0

    def now(self) -> datetime:
        return self.wall

    def elapsed(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += timedelta(seconds=seconds)
        self.seconds += seconds

    def set_wall(self, seconds: float) -> None:
        """Have somebody set the time of day; no time passes."""
        self.wall += timedelta(seconds=seconds)
