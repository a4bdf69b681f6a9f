"""What sandboxes use, over time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime

from cube.model.resources import Resources, ResourceUsage

#: Samples kept per sandbox.
_KEPT = 120
#: Asked more often than this, in seconds, the last sample is the answer.
_SHORTEST_INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class UsageSample:
    """What a sandbox used at a moment. ``cpu_used_pct`` is the share of its CPUs since the sample before, 0 to 100."""

    at: datetime
    usage: ResourceUsage
    limits: Resources
    cpu_used_pct: float


class UsageHistory:
    """The last samples of one sandbox: ten minutes' worth, or fewer when somebody asks often."""

    def __init__(self, started_at: datetime, limits: Resources) -> None:
        self._started_at = started_at
        self._limits = limits
        self._samples: deque[UsageSample] = deque(maxlen=_KEPT)

    def is_fresh(self, now: datetime) -> bool:
        """Whether the last sample is recent enough to be the answer."""
        return bool(self._samples) and (now - self._samples[-1].at).total_seconds() < _SHORTEST_INTERVAL

    def add(self, at: datetime, usage: ResourceUsage) -> None:
        """Append a sample."""
        self._samples.append(UsageSample(at, usage, self._limits, self._cpu_used_pct(at, usage.cpu_seconds)))

    def between(self, start: datetime | None, end: datetime | None) -> list[UsageSample]:
        """Samples in that span, both ends included, oldest first."""
        return [
            sample
            for sample in self._samples
            if (start is None or sample.at >= start) and (end is None or sample.at <= end)
        ]

    def last(self) -> UsageSample | None:
        """The newest sample."""
        return self._samples[-1] if self._samples else None

    def _cpu_used_pct(self, at: datetime, cpu_seconds: float) -> float:
        since, before = self._started_at, 0.0
        if self._samples:
            since, before = self._samples[-1].at, self._samples[-1].usage.cpu_seconds
        available = (at - since).total_seconds() * self._limits.cpu_count
        if available <= 0:
            return 0.0
        return round(min(100.0, max(0.0, 100 * (cpu_seconds - before) / available)), 2)
