"""How many sandboxes fit: memory of an idle one, and whether many alive at once still answer and start as fast."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cube.bench import load
from cube.bench.client import Client, Handle
from cube.bench.load import Samples
from cube.bench.report import Figure, Report
from cube.bench.sandboxes import COMMAND, EXPECTED
from cube.bench.stand import Stand

#: Seconds that a sandbox lives: longer than the benchmark takes.
_LIFE = 3600
_CONCURRENCY = 20
#: Alive before anything is measured.
_FEW = 10
#: Creates that are timed one by one at each stage.
_PROBES = 20
#: Seconds in which the service makes ready again what creates have taken from its pools.
_SETTLE = 3.0


async def measure(stand: Stand, count: int, alive: int, template: str, command: str) -> Report:
    """Memory of ``count`` idle sandboxes, then ``alive`` of them at once, each of which must answer a command."""
    report = Report("density", command, {"count": count, "alive": alive, "template": template})
    report.samples["cube"] = samples = Samples()
    async with population(stand.client, template, samples) as people:
        await people.grow(_FEW, load.unseen)
        await people.probe()
        used = await _memory_of(people, count, stand.bars("idle", count))
        report.figures["memory of an idle sandbox"] = Figure(round(used / count / 1e6, 3), "MB")
        bar = stand.bars("alive", alive)
        for stage in (alive // 2, alive - _PROBES):
            await people.grow(stage, bar)
            await people.probe()
        answered = await people.ask(stand.bars("answers", len(people.handles)))
        report.figures["alive at once"] = Figure(len(people.handles), "sandboxes")
        report.figures["of which answered a command"] = Figure(answered, "sandboxes")
    return report


async def _memory_of(population: Population, count: int, progress: Callable[[], None]) -> int:
    """Bytes that ``count`` more sandboxes take from what the machine has available."""
    await asyncio.sleep(_SETTLE)
    before = available_bytes()
    await population.grow(len(population.handles) + count, progress)
    await asyncio.sleep(_SETTLE)
    return before - available_bytes()


def available_bytes() -> int:
    """``MemAvailable`` of the machine."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError("the kernel tells no MemAvailable")


class Population:
    """Sandboxes that live until the end of the benchmark."""

    def __init__(self, client: Client, template: str, samples: Samples, fields: Mapping[str, Any]) -> None:
        self._client = client
        self._template = template
        self._samples = samples
        self._fields = fields
        self.handles: list[Handle] = []

    async def grow(self, size: int, progress: Callable[[], None]) -> None:
        """Create sandboxes, some at a time, until there are that many."""
        await self._each([self._add] * max(0, size - len(self.handles)), progress)

    async def probe(self) -> None:
        """Time creates, one after the other, from pools that are full."""
        await asyncio.sleep(_SETTLE)
        mark = f"create, {len(self.handles)} alive"
        for _ in range(_PROBES):
            begun = time.perf_counter()
            await self._add()
            self._samples.add({mark: time.perf_counter() - begun})

    async def ask(self, progress: Callable[[], None]) -> int:
        """Run a command in each; returns how many answered."""
        answers: list[bytes] = []

        async def one(handle: Handle) -> None:
            begun = time.perf_counter()
            answers.append(await self._client.command(handle, COMMAND))
            self._samples.add({"exec": time.perf_counter() - begun})

        await self._each([partial(one, handle) for handle in self.handles], progress)
        return answers.count(EXPECTED)

    async def kill(self) -> None:
        """End all."""
        await self._each([partial(self._client.kill, handle) for handle in self.handles], load.unseen)

    async def _add(self) -> None:
        self.handles.append(await self._client.create(self._template, seconds=_LIFE, **self._fields))

    async def _each(self, jobs: Sequence[Callable[[], Awaitable[None]]], progress: Callable[[], None]) -> None:
        """Do all, some at a time; failures are kept."""
        self._samples.errors += await load.each(jobs, concurrency=_CONCURRENCY, progress=progress)


@asynccontextmanager
async def population(client: Client, template: str, samples: Samples, **fields: object) -> AsyncIterator[Population]:
    """None at first; all are ended at the end. What fails is added to ``samples``; ``fields`` are of each create."""
    people = Population(client, template, samples, fields)
    try:
        yield people
    finally:
        await people.kill()
