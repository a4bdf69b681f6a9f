"""All benchmarks in one run, with counts that together take a few minutes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from cube.bench import code, create, density, files, pause, rivals, tti
from cube.bench.load import unseen
from cube.bench.report import Report
from cube.bench.stand import Stand
from cube.settings import Settings

_RIVAL_ROUNDS = 30
#: Seconds after each, in which what it has ended is taken apart.
_SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Part:
    """One benchmark of the run."""

    name: str
    #: The command that runs it alone.
    command: str
    measure: Callable[[Stand, str], Awaitable[Report]]


async def run(stand: Stand, base: str, interpreter: str) -> dict[str, Report]:
    """All of them, on the templates of these names."""
    reports: dict[str, Report] = {}
    for part in parts(base, interpreter):
        reports[part.name] = await part.measure(stand, part.command)
        await asyncio.sleep(_SETTLE_S)
    return reports


def parts(base: str, interpreter: str) -> tuple[Part, ...]:
    """The benchmarks in their order, on the templates of these names."""

    def options(**wishes: int | bool) -> create.Options:
        return create.Options(template=base, **wishes)  # type: ignore[arg-type]

    others = [name for name in rivals.NAMES if name != "runc"]
    versus = " ".join(f"--vs {name}" for name in others)
    return (
        Part(
            "create",
            "cube bench create --count 200 --vs runc",
            lambda stand, line: create.measure(stand, options(count=200), ["runc"], line),
        ),
        Part(
            "throughput",
            "cube bench create --count 500 --concurrency 50 --no-exec",
            lambda stand, line: create.measure(
                stand, options(count=500, concurrency=50, warmup=50, with_exec=False), [], line
            ),
        ),
        Part(
            "creates",
            "cube bench create --count 500 --concurrency 50 --keep",
            lambda stand, line: create.measure(
                stand, options(count=500, concurrency=50, warmup=50, keep=True), [], line
            ),
        ),
        Part(
            "rivals",
            f"cube bench create --count {_RIVAL_ROUNDS} {versus}",
            lambda stand, line: create.measure(stand, options(count=_RIVAL_ROUNDS), others, line),
        ),
        Part(
            "run-code",
            "cube bench run-code --count 50",
            lambda stand, line: code.measure(stand, 50, 20, interpreter, line),
        ),
        Part("pause", "cube bench pause --count 50", lambda stand, line: pause.measure(stand, 50, base, line)),
        Part("files", "cube bench files", lambda stand, line: files.measure(stand, 1024, 3, 50, base, line)),
        Part("tti", "cube bench tti --count 100", lambda stand, line: tti.measure(stand, 100, 100, base, line)),
        Part(
            "network",
            "cube bench network --count 300",
            _network,
        ),
        Part("egress", "cube bench egress", _egress),
        Part("density", "cube bench density", lambda stand, line: density.measure(stand, 200, 1000, base, line)),
    )


async def _network(stand: Stand, line: str) -> Report:
    return await _apart(_network_here, stand, line)


async def _egress(stand: Stand, line: str) -> Report:
    return await _apart(_egress_here, stand, line)


async def _apart(measure: Callable[[Path, Settings, str], Report], stand: Stand, line: str) -> Report:
    """Measure in a process of its own: network namespaces are entered, in which threads of this one are not."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(process, measure, stand.workspace, stand.settings, line)


def _network_here(workspace: Path, settings: Settings, line: str) -> Report:
    from cube.bench import network  # late: it has all of the network agent with it, which other commands need not load

    return asyncio.run(network.measure(workspace, _no_bars, 300, line))


def _egress_here(workspace: Path, settings: Settings, line: str) -> Report:
    from cube.bench.egress import measure as egress  # late, as above
    from cube.bench.egress import mitm

    try:
        return asyncio.run(egress.measure(egress.Options(environment=mitm.home(settings)), _no_bars, line))
    except FileNotFoundError as missing:
        return Report("egress", line, absent={"the outbound proxy": str(missing)})


def _no_bars(name: str, total: int) -> Callable[[], None]:
    return unseen
