"""``cube bench``."""

from __future__ import annotations

import asyncio
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cube import __version__
from cube.bench import load, oci, sandboxes
from cube.bench.client import Client
from cube.bench.load import Round, Samples
from cube.bench.summary import summarise
from cube.cli.output import Json, fail, out, print_json, progress
from cube.settings import Settings

app = typer.Typer(help="Measure how fast sandboxes start and answer, beside other ways of starting the same image.")

Count = Annotated[int, typer.Option("--count", "-n", min=1, help="Measured rounds.")]
Concurrency = Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Rounds at the same time.")]
Warmup = Annotated[int, typer.Option(min=0, help="Rounds before the measured ones, thrown away.")]
TemplateName = Annotated[str, typer.Option("--template", "-t", help="Template to clone.")]
Versus = Annotated[
    list[str] | None, typer.Option("--vs", help="Rival to run beside it: runc or crun. May be repeated.")
]
WithExec = Annotated[bool, typer.Option("--exec/--no-exec", help="Also run a first command in each sandbox.")]

#: Rounds of each contestant before the next one's turn, so that noise of the machine meets all alike.
_TURN = 10


@app.command()
def create(
    count: Count = 100,
    concurrency: Concurrency = 1,
    warmup: Warmup = 5,
    template: TemplateName = "base",
    vs: Versus = None,
    with_exec: WithExec = True,
    as_json: Json = False,
) -> None:
    """Create sandboxes through the API of the running service and wait for the answer of a first command.

    Examples:

        cube bench create --count 200 --vs runc

        cube bench create --concurrency 50 --count 500 --no-exec --json
    """
    settings = Settings()
    try:
        results = asyncio.run(
            _compare(settings, template, vs or [], count, concurrency, warmup, with_exec=with_exec, quiet=as_json)
        )
    except (FileNotFoundError, ConnectionError) as error:
        fail(f"{error}; is the service running? See `cube status`", as_json=as_json)
    report = _report(results, {"count": count, "concurrency": concurrency, "warmup": warmup, "template": template})
    if as_json:
        print_json(report)
    else:
        _show(results)
    if any(samples.errors for samples in results.values()):
        raise typer.Exit(1)


async def _compare(
    settings: Settings,
    template: str,
    rivals: list[str],
    count: int,
    concurrency: int,
    warmup: int,
    *,
    with_exec: bool,
    quiet: bool,
) -> dict[str, Samples]:
    """Contestants take turns of a few rounds until each has done ``count``."""
    with tempfile.TemporaryDirectory(prefix="cube-bench-") as workspace:
        async with Client(settings.public_url, settings.api_key) as client:
            own = sandboxes.create_and_exec if with_exec else sandboxes.create
            contestants: dict[str, Round] = {"cube": own(client, template)}
            for name in rivals:
                image = await _image(client, settings, template)
                contestants[name] = oci.OciRival(name, image, Path(workspace)).round()
            return await _take_turns(contestants, count, concurrency, warmup, quiet=quiet)


async def _take_turns(
    contestants: dict[str, Round], count: int, concurrency: int, warmup: int, *, quiet: bool
) -> dict[str, Samples]:
    results = {name: Samples() for name in contestants}
    turn = max(_TURN, concurrency) if len(contestants) > 1 else count
    with progress(hidden=quiet) as display:
        bars = {name: display.add_task(name, total=count + warmup) for name in contestants}
        for begun in range(0, count, turn):
            for name, once in contestants.items():
                part = await load.run(
                    once,
                    count=min(turn, count - begun),
                    concurrency=concurrency,
                    warmup=0 if begun else warmup,
                    progress=lambda name=name: display.advance(bars[name]),  # type: ignore[misc]
                )
                results[name].extend(part)
    return results


async def _image(client: Client, settings: Settings, template: str) -> Path:
    """Where the running service has mounted the template's image."""
    template_id = await client.template_id(template)
    # It is mounted when the first sandbox needs it.
    await client.kill(await client.create(template))
    image = settings.run_dir / "images" / template_id
    if not image.is_dir():
        raise FileNotFoundError(f"{image} is not there")
    return image


def _report(results: dict[str, Samples], parameters: dict[str, object]) -> dict[str, object]:
    return {
        "benchmark": "create",
        "version": __version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
            "kernel": platform.release(),
        },
        "parameters": parameters,
        "results": {name: _numbers(samples) for name, samples in results.items()},
    }


def _numbers(samples: Samples) -> dict[str, object]:
    return {
        "milliseconds": {mark: summarise(values).as_dict() for mark, values in samples.durations.items()},
        "per_second": round(samples.rounds / samples.elapsed, 2) if samples.elapsed else 0.0,
        "errors": samples.errors[:10],
        "error_count": len(samples.errors),
    }


def _show(results: dict[str, Samples]) -> None:
    table = Table("", "", *("count", "min", "avg", "p50", "p90", "p95", "p99", "max"), box=None, pad_edge=False)
    for name, samples in results.items():
        for mark, values in samples.durations.items():
            numbers = summarise(values).as_dict()
            count = str(int(numbers.pop("count")))
            table.add_row(name, mark, count, *(f"{value:.1f}" for value in numbers.values()))
    out.print(table)
    out.print("milliseconds")
    for name, samples in results.items():
        out.print(f"{name}: {samples.rounds / samples.elapsed:.1f} rounds per second, {len(samples.errors)} errors")
        for error in samples.errors[:3]:
            out.print(f"  [red]{error}[/red]")
    _ratios(results)


def _ratios(results: dict[str, Samples]) -> None:
    own = results["cube"].durations.get("create+exec") or results["cube"].durations.get("create")
    for name, samples in results.items():
        rival = samples.durations.get("create+exec") or samples.durations.get("create")
        if name != "cube" and own and rival:
            out.print(f"cube's p50 is {summarise(rival).p50 / summarise(own).p50:.1f} times faster than {name}'s")
