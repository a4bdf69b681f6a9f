"""Summaries of measured durations. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """Durations in milliseconds; percentiles are values that were really measured (nearest rank)."""

    count: int
    min: float
    avg: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    def as_dict(self) -> dict[str, float]:
        """For JSON; rounded to a microsecond."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of an ascending sequence do not exceed; raises ``ValueError`` when
    empty."""
    if not ordered:
        raise ValueError("no values")
    rank = -(-len(ordered) * percent // 100)  # ceiling
    return ordered[max(0, int(rank) - 1)]


def summarise(seconds: Sequence[float]) -> Summary:
    """Summary of durations given in seconds; raises ``ValueError`` when there are none."""
    ordered = sorted(value * 1000 for value in seconds)
    marks = {f"p{percent}": percentile(ordered, percent) for percent in (50, 90, 95, 99)}
    return Summary(len(ordered), ordered[0], sum(ordered) / len(ordered), max=ordered[-1], **marks)
