"""The public yardstick "time to interactive", from create to the answer of the first command, through the real E2B SDK.

Its three shapes: one after the other, one every 200 ms, and 100 at once. Needs the package ``e2b``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from cube.bench.load import Samples
from cube.bench.report import Figure, Report
from cube.bench.sandboxes import COMMAND, EXPECTED
from cube.bench.stand import Stand
from cube.bench.summary import summarise

#: Seconds between two starts of the staggered shape.
_STAGGER = 0.2
#: The yardstick's worst time, in milliseconds, for which there are no points.
_CEILING_MS = 10_000.0
_WEIGHTS = {"p50": 0.6, "p95": 0.25, "p99": 0.15}


async def measure(stand: Stand, count: int, burst: int, template: str, command: str) -> Report:
    """``count`` rounds one after the other, and ``burst`` staggered and at once. Raises ``ImportError``."""
    report = Report("tti", command, {"count": count, "burst": burst, "template": template})
    runner = _Runner(import_module("e2b").AsyncSandbox, _options(stand), template)
    await runner.once(Samples())
    shapes: dict[str, tuple[int, Callable[..., Any]]] = {
        "sequential": (count, _sequential),
        "staggered": (burst, _staggered),
        "burst": (burst, _burst),
    }
    for name, (rounds, shape) in shapes.items():
        samples = report.samples[name] = Samples()
        begun = time.perf_counter()
        await shape(runner, samples, rounds, stand.bars(name, rounds))
        samples.elapsed = time.perf_counter() - begun
        report.figures[f"{name}, succeeded"] = Figure(samples.rounds, f"of {rounds}")
        report.figures[f"{name}, all done"] = Figure(round(samples.elapsed, 3), "s")
        report.figures[f"{name}, score"] = Figure(score(samples, rounds), "of 100")
    return report


class _Runner:
    """Rounds through the SDK. A failure of any kind is a round that did not succeed."""

    def __init__(self, sandbox: Any, options: dict[str, str], template: str) -> None:
        self._sandbox = sandbox
        self._options = options
        self._template = template

    async def once(self, samples: Samples) -> None:
        """Create, run the first command, end. Mark: ``tti``."""
        begun = time.perf_counter()
        try:
            sandbox = await self._sandbox.create(self._template, timeout=120, **self._options)
            try:
                result = await sandbox.commands.run(COMMAND)
                elapsed = time.perf_counter() - begun
            finally:
                await sandbox.kill()
        except Exception as error:  # noqa: BLE001  whatever the SDK raises, the round has failed
            samples.errors.append(f"{type(error).__name__}: {error}")
            return
        if result.stdout.encode() == EXPECTED:
            samples.add({"tti": elapsed})
        else:
            samples.errors.append(f"the command printed {result.stdout!r}")


async def _sequential(runner: _Runner, samples: Samples, count: int, progress: Callable[[], None]) -> None:
    for _ in range(count):
        await runner.once(samples)
        progress()


async def _staggered(runner: _Runner, samples: Samples, count: int, progress: Callable[[], None]) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(_counted(runner, samples, progress))
            await asyncio.sleep(_STAGGER)


async def _burst(runner: _Runner, samples: Samples, count: int, progress: Callable[[], None]) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(_counted(runner, samples, progress))


async def _counted(runner: _Runner, samples: Samples, progress: Callable[[], None]) -> None:
    await runner.once(samples)
    progress()


def _options(stand: Stand) -> dict[str, str]:
    url = stand.settings.public_url
    return {"api_url": url, "sandbox_url": url, "api_key": stand.settings.api_key or "e2b_" + "0" * 40}


def score(samples: Samples, count: int) -> float:
    """The yardstick's score: weighted percentiles against the worst time, times the share that succeeded."""
    if not samples.rounds:
        return 0.0
    numbers = summarise(samples.durations["tti"]).as_dict()
    weighted = sum(weight * max(0.0, 1 - numbers[name] / _CEILING_MS) for name, weight in _WEIGHTS.items())
    return round(100 * weighted * samples.rounds / count, 2)
