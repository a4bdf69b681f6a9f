"""How fast sandboxes start and answer, beside other ways of starting the same image, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from cube.bench import load, rivals, sandboxes
from cube.bench.client import Client, Handle
from cube.bench.load import Round, Samples
from cube.bench.report import Figure, Report, rate
from cube.bench.stand import Stand

#: Rounds of each contestant before the next one's turn, so that noise of the machine meets all alike.
_TURN = 10
_ENDED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Options:
    """What is run, and how often."""

    count: int = 100
    concurrency: int = 1
    warmup: int = 5
    template: str = "base"
    #: Whether a first command is run in each sandbox.
    with_exec: bool = True
    #: Whether nothing is measured but creates: the sandboxes are ended after the last one.
    keep: bool = False


async def measure(stand: Stand, options: Options, versus: Sequence[str], command: str) -> Report:
    """Rivals that cannot run here are listed with the reason. Raises ``FileNotFoundError`` without the template."""
    report = Report("create", command, asdict(options))
    made: list[Handle] = []
    contestants = {"cube": _own(stand.client, options, made)}
    if versus:
        image = await _image(stand, options.template)
        contestants |= await _rivals(stand, versus, image, report)
    try:
        report.samples = await _take_turns(stand, contestants, options)
    finally:
        ends = [partial(stand.client.kill, sandbox) for sandbox in made]
        failed = await load.each(ends, concurrency=_ENDED_AT_ONCE)
    report.samples["cube"].errors += failed
    for name, samples in report.samples.items():
        report.figures[f"{name}, sandboxes"] = rate(samples)
    report.figures |= _ratios(report)
    return report


def _own(client: Client, options: Options, made: list[Handle]) -> Round:
    if options.keep:
        return sandboxes.create_alone(client, options.template, made)
    own = sandboxes.create_and_exec if options.with_exec else sandboxes.create
    return own(client, options.template)


async def _rivals(stand: Stand, names: Sequence[str], image: Path, report: Report) -> dict[str, Round]:
    found: dict[str, Round] = {}
    for name in names:
        try:
            found[name] = await rivals.contestant(name, image, stand.workspace)
        except rivals.CannotRun as reason:
            report.absent[name] = str(reason)
    return found


async def _take_turns(stand: Stand, contestants: dict[str, Round], options: Options) -> dict[str, Samples]:
    """Contestants take turns of a few rounds until each has done its count."""
    results = {name: Samples() for name in contestants}
    turn = max(_TURN, options.concurrency) if len(contestants) > 1 else options.count
    bars = {name: stand.bars(name, options.count + options.warmup) for name in contestants}
    for begun in range(0, options.count, turn):
        for name, once in contestants.items():
            part = await load.run(
                once,
                count=min(turn, options.count - begun),
                concurrency=options.concurrency,
                warmup=0 if begun else options.warmup,
                progress=bars[name],
            )
            results[name].extend(part)
    return results


async def _image(stand: Stand, template: str) -> Path:
    """Where the running service has mounted the template's image."""
    template_id = await stand.client.template_id(template)
    # It is mounted when the first sandbox needs it.
    await stand.client.kill(await stand.client.create(template))
    image = stand.settings.run_dir / "images" / template_id
    if not image.is_dir():
        raise FileNotFoundError(f"{image} is not there")
    return image


def _ratios(report: Report) -> dict[str, Figure]:
    """How many times faster cube's p50 is than each rival's."""
    found: dict[str, Figure] = {}
    for name in report.samples:
        for mark in ("create+exec", "create"):
            own, other = report.summary("cube", mark), report.summary(name, mark)
            if name != "cube" and own and other:
                found[f"cube's p50 beside {name}'s"] = Figure(round(other.p50 / own.p50, 2), "times faster")
                break
    return found
