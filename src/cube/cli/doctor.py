"""``cube doctor``."""

from __future__ import annotations

import typer
from rich.table import Table

from cube.cli.output import Json, out, print_json
from cube.cubelet.doctor import examine
from cube.cubelet.doctor.check import Check, Status

_COLOURS = {Status.OK: "green", Status.LIMITED: "yellow", Status.UNKNOWN: "yellow", Status.MISSING: "red"}


def doctor(as_json: Json = False) -> None:
    """Find out what this machine can do, by trying it, and say what follows.

    Exits with 1 when sandboxes cannot be started here.

    Example: cube doctor --json
    """
    checks = dict(examine())
    if as_json:
        print_json({name: check.as_dict() for name, check in checks.items()})
    else:
        _show(checks)
    if any(check.status is Status.MISSING for check in checks.values()):
        raise typer.Exit(1)


def _show(checks: dict[str, Check]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, check in checks.items():
        colour = _COLOURS[check.status]
        table.add_row(f"[{colour}]{check.status}[/{colour}]", name, check.detail)
    out.print(table)
    for name, check in checks.items():
        if check.consequence:
            out.print(f"\n[bold]{name}:[/bold] {check.consequence}", soft_wrap=True)
    if all(check.status is not Status.MISSING for check in checks.values()):
        out.print("\nSandboxes can run on this machine, isolated as containers.")
    else:
        out.print("\n[red]Sandboxes cannot run on this machine yet.[/red]")
