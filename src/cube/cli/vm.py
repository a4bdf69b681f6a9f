"""``cube vm``: the microVMs of this machine, as their processes tell."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from cube.cli.output import Json, fail, out, print_json
from cube.model.errors import CubeError
from cube.settings import Settings

app = typer.Typer(help="MicroVMs that run on this machine (root).", no_args_is_help=True)

Sandbox = Annotated[str, typer.Argument(help="Id of a sandbox.")]
#: What the guest says is shown without what would move the cursor or change the terminal.
_SHOWN_CONTROLS = "\n\t"


@app.command("ls")
def list_machines(as_json: Json = False) -> None:
    """Show the machines that run: process, processor time, memory (shared pages divided).

    Example: cube vm ls
    """
    from cube.cubelet.runtime.microvm import inspection

    rows: list[dict[str, Any]] = [
        {"sandbox": name, "template": record.template_id, "pid": record.pid, **inspection.usage(record)}
        for name, record in sorted(inspection.machines(Settings()).items())
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("sandbox", "template", "pid", "cpu", "memory", box=None, pad_edge=False)
    for row in rows:
        memory = f"{row['memory_bytes'] / 1e6:.1f} MB"
        table.add_row(row["sandbox"], row["template"], str(row["pid"]), f"{row['cpu_seconds']:.1f} s", memory)
    out.print(table)


@app.command()
def info(sandbox: Sandbox, as_json: Json = False) -> None:
    """Show one machine: state, processors, balloon, disks, and how long each part of its start took.

    Example: cube vm info i8q2m0v5x7c1k9d4f6h3z
    """
    from cube.cubelet.runtime.microvm import inspection

    try:
        record = inspection.machine(Settings(), sandbox)
        found = {"sandbox": sandbox, "template": record.template_id, "pid": record.pid, **inspection.usage(record)}
        found |= asyncio.run(inspection.details(Settings(), record))
        found["network"] = inspection.traffic(Settings(), record)
    except CubeError as error:
        fail(error.message, as_json=as_json)
    found["start_ms"] = dict(record.began)
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        out.print(f"{name}: {value}", markup=False)


@app.command()
def console(sandbox: Sandbox, as_json: Json = False) -> None:
    """Show what the guest's kernel has said since the last time; what was shown is gone.

    Example: cube vm console i8q2m0v5x7c1k9d4f6h3z
    """
    from cube.cubelet.runtime.microvm import inspection

    try:
        text = asyncio.run(inspection.console(Settings(), inspection.machine(Settings(), sandbox)))
    except CubeError as error:
        fail(error.message, as_json=as_json)
    if as_json:
        print_json({"sandbox": sandbox, "console": text})
        return
    sys.stdout.write("".join(one for one in text if one.isprintable() or one in _SHOWN_CONTROLS))
