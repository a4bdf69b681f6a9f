"""How ``cube bench`` speaks: progress bars, and reports as tables, JSON or Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.table import Table

from cube.bench.load import Bars
from cube.bench.report import COLUMNS, Report, machine
from cube.bench.targets import TARGETS, Target, as_table
from cube.cli.output import Json, out, print_json, progress

JsonForm = Json
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a document.")]


@contextmanager
def bars(*, hidden: bool) -> Iterator[Bars]:
    """Bars on the terminal, one below the other."""
    with progress(hidden=hidden) as display:

        def add(name: str, total: int) -> Callable[[], None]:
            task = display.add_task(name, total=total)
            return lambda: display.advance(task)

        yield add


def show(report: Report, *, as_json: bool, markdown: bool) -> None:
    """One report on stdout."""
    if as_json:
        print_json(report.as_dict())
    elif markdown:
        out.print(report.markdown(), markup=False, soft_wrap=True)
    else:
        _show_table(report)


def show_all(
    reports: Mapping[str, Report], targets: Sequence[Target] = TARGETS, *, as_json: bool, markdown: bool
) -> bool:
    """All reports and what is asked for; returns whether everything that must be is."""
    met = all(target.holds(reports) for target in targets)
    if as_json:
        rows = [dict(zip(_COLUMNS, target.row(reports), strict=True)) for target in targets]
        documents = {name: report.as_dict() for name, report in reports.items()}
        print_json({"machine": machine(), "targets": rows, "met": met, "reports": documents})
    elif markdown:
        sections = [f"## {name}\n\n{report.markdown()}" for name, report in reports.items()]
        out.print("\n\n".join([as_table(reports, targets), *sections]), markup=False, soft_wrap=True)
    else:
        for report in reports.values():
            out.print(f"[bold]{report.command}[/bold]")
            _show_table(report)
        _show_targets(reports, targets)
    return met


_COLUMNS = ("what", "must", "aim", "seen", "holds")


def _show_targets(reports: Mapping[str, Report], targets: Sequence[Target]) -> None:
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for target in targets:
        table.add_row(*target.row(reports))
    out.print(table)


def _show_table(report: Report) -> None:
    if rows := report.rows():
        table = Table("", "", *COLUMNS, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        out.print(table)
        out.print("milliseconds")
    for name, figure in report.figures.items():
        out.print(f"{name}: {figure}")
    for name, reason in report.absent.items():
        out.print(f"{name} cannot run here: {reason}")
    for name, error in report.failures():
        out.print(f"[red]{name}: {error}[/red]")
