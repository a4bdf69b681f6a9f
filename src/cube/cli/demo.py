"""``cube demo``: the unmodified E2B client runs code in a sandbox of the running service."""

from __future__ import annotations

import time
from typing import Any

from cube.cli import daemon
from cube.cli.output import Json, fail, out, print_json
from cube.cli.up import export
from cube.settings import Settings

_CODE = "import math; print(6 * 7); math.factorial(20)"


def demo(as_json: Json = False) -> None:
    """Create a sandbox with the e2b-code-interpreter package, run code and a command in it, and end it.

    Example: cube demo
    """
    settings = Settings()
    if not daemon.answers(settings):
        fail("the service does not answer; start it with `cube up --detach`", as_json=as_json)
    try:
        from e2b_code_interpreter import Sandbox
    except ImportError:
        fail("the demo needs the E2B client: pip install e2b-code-interpreter", as_json=as_json)
    export(settings)
    steps = _run(Sandbox)
    if as_json:
        print_json(steps)
    else:
        _show(steps)


def _run(client: Any) -> list[dict[str, object]]:
    steps: list[dict[str, object]] = []

    def note(call: str, answer: object, begun: float) -> None:
        steps.append({"call": call, "answer": answer, "milliseconds": round((time.perf_counter() - begun) * 1000, 1)})

    begun = time.perf_counter()
    sandbox = client.create()
    note("Sandbox.create()", sandbox.sandbox_id, begun)
    try:
        begun = time.perf_counter()
        execution = sandbox.run_code(_CODE)
        note(f"run_code({_CODE!r})", [*execution.logs.stdout, execution.text], begun)
        begun = time.perf_counter()
        command = sandbox.commands.run("id -un; uname -s; hostname")
        note("commands.run('id -un; uname -s; hostname')", command.stdout.split(), begun)
    finally:
        begun = time.perf_counter()
        ended = sandbox.kill()
        note("kill()", ended, begun)
    return steps


def _show(steps: list[dict[str, object]]) -> None:
    for step in steps:
        out.print(f"[green]{step['call']}[/green]  {step['milliseconds']} ms", soft_wrap=True)
        out.print(f"    {step['answer']}", soft_wrap=True)
