"""Runs an operation many times at a given concurrency and keeps the durations of its marks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

#: One round of a benchmark: does the work and returns durations in seconds by mark, e.g. ``{"create": 0.01}``.
Round = Callable[[], Awaitable[dict[str, float]]]

#: Shows a bar of that many steps under a name; what it returns advances it by one.
Bars = Callable[[str, int], Callable[[], None]]


@dataclass(slots=True)
class Samples:
    """What a run produced."""

    durations: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    #: Wall time of the measured part, in seconds.
    elapsed: float = 0.0

    def add(self, marks: dict[str, float]) -> None:
        """Keep the durations of one round."""
        for mark, seconds in marks.items():
            self.durations.setdefault(mark, []).append(seconds)

    def extend(self, other: Samples) -> None:
        """Add another run of the same operation."""
        for mark, values in other.durations.items():
            self.durations.setdefault(mark, []).extend(values)
        self.errors += other.errors
        self.elapsed += other.elapsed

    @property
    def rounds(self) -> int:
        """Rounds that succeeded."""
        return max(map(len, self.durations.values()), default=0)


class RoundFailed(Exception):
    """A round could not be completed; counted, not fatal."""


def unseen() -> None:
    """The progress of what has no bar."""


async def run(
    once: Round, *, count: int, concurrency: int, warmup: int, progress: Callable[[], None] = unseen
) -> Samples:
    """``warmup`` rounds that are thrown away, then ``count`` measured ones, ``concurrency`` at a time."""
    await _rounds(once, Samples(), warmup, concurrency, progress)
    samples = Samples()
    begun = time.perf_counter()
    await _rounds(once, samples, count, concurrency, progress)
    samples.elapsed = time.perf_counter() - begun
    return samples


async def each(
    jobs: Sequence[Callable[[], Awaitable[None]]], *, concurrency: int, progress: Callable[[], None] = unseen
) -> list[str]:
    """Do every job once, ``concurrency`` at a time; returns what went wrong with those that failed."""
    left = iter(jobs)

    async def once() -> dict[str, float]:
        await next(left)()
        return {}

    return (await run(once, count=len(jobs), concurrency=concurrency, warmup=0, progress=progress)).errors


async def _rounds(once: Round, samples: Samples, count: int, concurrency: int, progress: Callable[[], None]) -> None:
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            try:
                samples.add(await once())
            except RoundFailed as error:
                samples.errors.append(str(error))
            progress()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, count)):
            group.create_task(worker())
