"""How commands speak: a table or sentences to people, one JSON document to programs (``--json``)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

#: Columns for a reader that is no terminal: enough that nothing is cut off.
_PIPE_WIDTH = 200

#: For people; errors go to the other one.
out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode() + "\n")


def fail(message: str, *, as_json: bool = False, code: int = 1) -> NoReturn:
    """Say what went wrong and what to do, and end with ``code``."""
    if as_json:
        print_json({"error": message})
    else:
        err.print(f"[red]error:[/red] {message}", soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def progress(*, hidden: bool = False) -> Iterator[Progress]:
    """A progress display on stderr; silent when stderr is no terminal or ``hidden``."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=hidden or not err.is_terminal,
    ) as display:
        yield display
