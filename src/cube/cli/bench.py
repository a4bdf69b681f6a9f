"""``cube bench``."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from cube.bench import code, density, files, machine_targets, pause, rivals, suite, tti
from cube.bench import create as starts
from cube.bench.load import RoundFailed
from cube.bench.report import Report
from cube.bench.stand import Stand, stand
from cube.bench.targets import EGRESS_TARGETS, TARGETS
from cube.cli.bench_output import JsonForm, Markdown, bars, show, show_all
from cube.cli.output import fail
from cube.model.errors import CubeError
from cube.settings import Settings, require_root

app = typer.Typer(
    help="Measure the running service: starts, code, files, density, pauses, and other ways of starting an image.",
    invoke_without_command=True,
)

Count = Annotated[int, typer.Option("--count", "-n", min=1, help="Measured rounds.")]
Concurrency = Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Rounds at the same time.")]
Warmup = Annotated[int, typer.Option(min=0, help="Rounds before the measured ones, thrown away.")]
Base = Annotated[str, typer.Option("--template", "-t", help="Template to clone.")]
Versus = Annotated[
    list[str] | None,
    typer.Option("--vs", help=f"Rival to run beside it: {', '.join(rivals.NAMES)}. May be repeated."),
]
WithExec = Annotated[bool, typer.Option("--exec/--no-exec", help="Also run a first command in each sandbox.")]
Keep = Annotated[bool, typer.Option("--keep", help="Measure creates alone: end the sandboxes after the last one.")]

T = TypeVar("T")

_INTERPRETER = "code-interpreter-v1"


@app.callback()
def bench(
    context: typer.Context,
    runtime: Annotated[str, typer.Option(help="`microvm`: measure what is asked of microVMs alone, all of it.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each of these benchmarks.")] = 15,
    alive: Annotated[int, typer.Option(min=1, help="MicroVMs alive at once.")] = 100,
    only: Annotated[list[str] | None, typer.Option(help="One of these benchmarks; may be repeated.")] = None,
    as_json: JsonForm = False,
    markdown: Markdown = False,
) -> None:
    """Measure the running service. One benchmark by its name, all of them by `all`, or microVMs by `--runtime`.

    Example: cube bench --runtime microvm --markdown
    """
    if context.invoked_subcommand is not None:
        return
    if not runtime:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    if runtime != "microvm":
        fail(f"there is no benchmark of runtime {runtime!r}: only of `microvm`", as_json=as_json)

    # It knows the runtime, which takes long to import.
    from cube.bench import machines

    if unknown := [name for name in only or [] if name not in machines.PARTS]:
        fail(f"there is no part {unknown[0]!r}; the parts are {', '.join(machines.PARTS)}", as_json=as_json)

    async def measured(stand: Stand) -> dict[str, Report]:
        return await machines.measure(stand, "base", _INTERPRETER, rounds, alive, only or ())

    reports = _measured(measured, quiet=as_json, as_json=as_json)
    targets = [one for one in machine_targets.TARGETS if not only or one.seen(reports) is not None]
    if not show_all(reports, targets, as_json=as_json, markdown=markdown):
        raise typer.Exit(1)


@app.command()
def create(
    count: Count = 100,
    concurrency: Concurrency = 1,
    warmup: Warmup = 5,
    template: Base = "base",
    vs: Versus = None,
    with_exec: WithExec = True,
    keep: Keep = False,
    as_json: JsonForm = False,
    markdown: Markdown = False,
) -> None:
    """Create sandboxes through the API of the running service and wait for the answer of a first command.

    Examples:

        cube bench create --count 200 --vs runc

        cube bench create --concurrency 50 --count 500 --no-exec --json

        cube bench create --concurrency 50 --count 500 --keep
    """
    if keep and vs:
        fail("--keep measures creates alone: there is nothing to compare with --vs", as_json=as_json)
    if unknown := [name for name in vs or [] if name not in rivals.NAMES]:
        fail(f"there is no rival {unknown[0]!r}; the rivals are {', '.join(rivals.NAMES)}", as_json=as_json)
    options = starts.Options(count, concurrency, warmup, template, with_exec, keep)
    words = ["create", f"--count {count}", *(f"--vs {name}" for name in vs or [])]
    words += [f"--concurrency {concurrency}"] * (concurrency > 1) + ["--no-exec"] * (not with_exec) + ["--keep"] * keep
    _run(lambda stand: starts.measure(stand, options, vs or [], _line(words)), as_json=as_json, markdown=markdown)


@app.command("run-code")
def run_code(
    count: Count = 50,
    later: Annotated[int, typer.Option(min=1, help="Executions after the first in each sandbox.")] = 20,
    template: Base = _INTERPRETER,
    as_json: JsonForm = False,
    markdown: Markdown = False,
) -> None:
    """Run `1+1` in new sandboxes: the first time, which starts an interpreter unless one is ready, and later.

    Example: cube bench run-code --count 50
    """
    line = _line(["run-code", f"--count {count}"])
    _run(lambda stand: code.measure(stand, count, later, template, line), as_json=as_json, markdown=markdown)


@app.command("files")
def files_(
    megabytes: Annotated[int, typer.Option(min=1, help="Size of the big file in MiB.")] = 1024,
    repeats: Annotated[int, typer.Option(min=1, help="How often the big file goes each way.")] = 3,
    small: Annotated[int, typer.Option(min=1, help="Small files, of 1 KiB, each way.")] = 50,
    template: Base = "base",
    as_json: JsonForm = False,
    markdown: Markdown = False,
) -> None:
    """Move a big file, and small ones, into a sandbox and out of it, through the public port.

    Example: cube bench files --megabytes 1024
    """
    line = _line(["files", *[f"--megabytes {megabytes}"] * (megabytes != 1024)])
    _run(
        lambda stand: files.measure(stand, megabytes, repeats, small, template, line),
        as_json=as_json,
        markdown=markdown,
    )


@app.command("density")
def density_(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Idle sandboxes whose memory is measured.")] = 200,
    alive: Annotated[int, typer.Option(min=100, help="Sandboxes alive at once, each of which must answer.")] = 1000,
    template: Base = "base",
    as_json: JsonForm = False,
    markdown: Markdown = False,
) -> None:
    """Measure the memory of idle sandboxes, then have many alive at once: do they answer, are creates as fast?

    The memory is what the whole machine has less of: nothing else should run on it.

    Example: cube bench density --count 200 --alive 1000
    """
    line = _line(["density", *[f"--count {count} --alive {alive}"] * ((count, alive) != (200, 1000))])
    _run(lambda stand: density.measure(stand, count, alive, template, line), as_json=as_json, markdown=markdown)


@app.command("pause")
def pause_(count: Count = 50, template: Base = "base", as_json: JsonForm = False, markdown: Markdown = False) -> None:
    """Pause and resume a sandbox, and wait for the answer of a command after each resume.

    Example: cube bench pause --count 50
    """
    line = _line(["pause", f"--count {count}"])
    _run(lambda stand: pause.measure(stand, count, template, line), as_json=as_json, markdown=markdown)


@app.command("tti")
def tti_(
    count: Count = 100,
    burst: Annotated[int, typer.Option(min=1, help="Sandboxes of the staggered and of the burst shape.")] = 100,
    template: Base = "base",
    as_json: JsonForm = False,
    markdown: Markdown = False,
) -> None:
    """Time to interactive through the E2B SDK: one after the other, one every 200 ms, and 100 at once.

    Example: cube bench tti --count 100
    """
    line = _line(["tti", f"--count {count}"])
    _run(lambda stand: tti.measure(stand, count, burst, template, line), as_json=as_json, markdown=markdown)


@app.command("network")
def network_(count: Count = 300, as_json: JsonForm = False, markdown: Markdown = False) -> None:
    """Hand out links, change policies beside many, move bytes under one, and kill the agent: on machines of its own.

    The service need not run. Example: cube bench network --count 300
    """

    from cube.bench import network  # late: it has all of the network agent with it

    async def measured() -> Report:
        with tempfile.TemporaryDirectory(prefix="cube-bench-") as workspace, bars(hidden=as_json) as display:
            return await network.measure(Path(workspace), display, count, _line(["network", f"--count {count}"]))

    try:
        require_root()
        report = asyncio.run(measured())
    except (PermissionError, RoundFailed, CubeError) as error:
        fail(str(error), as_json=as_json)
    show(report, as_json=as_json, markdown=markdown)


@app.command("egress")
def egress_(
    requests: Annotated[int, typer.Option(min=1000, help="Requests of which each must be in the audit log.")] = 100_000,
    vs: Annotated[
        bool, typer.Option("--vs/--no-vs", help="Also measure mitmproxy; it is installed if need be.")
    ] = True,
    as_json: JsonForm = False,
    markdown: Markdown = False,
) -> None:
    """Measure the outbound proxy in a network of the benchmark's own. Needs root and `h2load`, but no running service.

    mitmproxy is put into an environment of its own, `bench/mitmproxy` in the state directory, from the package index.

    Example: cube bench egress --markdown
    """
    # They have the outbound proxy with them, which takes a second to import.
    from cube.bench.egress import measure as egress
    from cube.bench.egress import mitm

    environment = mitm.home(Settings()) if vs else None
    options = egress.Options(requests=requests, environment=environment)
    line = _line(["egress", *[f"--requests {requests}"] * (requests != 100_000), *["--no-vs"] * (not vs)])

    async def measured() -> Report:
        with bars(hidden=as_json) as display:
            return await egress.measure(options, display, line)

    try:
        report = asyncio.run(measured())
    except (FileNotFoundError, RoundFailed, TimeoutError) as error:
        fail(str(error) or "the outbound proxy does not answer", as_json=as_json)
    if not show_all({"egress": report}, as_json=as_json, markdown=markdown, targets=EGRESS_TARGETS):
        raise typer.Exit(1)


@app.command("all")
def all_(as_json: JsonForm = False, markdown: Markdown = False) -> None:
    """Run every benchmark once and compare with what is asked of a machine of two cores and 24 GiB. Takes minutes.

    What is asked of the outbound proxy needs `h2load`.

    Example: cube bench all --markdown
    """

    async def measured(stand: Stand) -> dict[str, Report]:
        return await suite.run(stand, "base", _INTERPRETER)

    reports = _measured(measured, quiet=as_json, as_json=as_json)
    targets = (*TARGETS, *EGRESS_TARGETS)
    if not show_all(reports, targets, as_json=as_json, markdown=markdown):
        raise typer.Exit(1)


def _line(words: list[str]) -> str:
    return " ".join(["cube", "bench", *words])


def _run(measure: Callable[[Stand], Awaitable[Report]], *, as_json: bool, markdown: bool) -> None:
    report = _measured(measure, quiet=as_json, as_json=as_json)
    show(report, as_json=as_json, markdown=markdown)
    if report.errors:
        raise typer.Exit(1)


def _measured(measure: Callable[[Stand], Awaitable[T]], *, quiet: bool, as_json: bool) -> T:
    async def measured() -> T:
        with bars(hidden=quiet) as display:
            async with stand(Settings(), display) as place:
                return await measure(place)

    try:
        return asyncio.run(measured())
    except ImportError as error:
        fail(f"{error}; this benchmark needs the E2B client: pip install e2b", as_json=as_json)
    except (FileNotFoundError, ConnectionError, RoundFailed) as error:
        fail(f"{error}; is the service running? See `cube status`", as_json=as_json)
