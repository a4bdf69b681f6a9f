"""How fast a sandbox is paused and resumed."""

from __future__ import annotations

import time
from typing import Any

from cube.bench import load
from cube.bench.client import Client, Handle
from cube.bench.load import Round
from cube.bench.report import Report
from cube.bench.sandboxes import COMMAND
from cube.bench.stand import Stand


async def measure(stand: Stand, count: int, template: str, command: str, **fields: Any) -> Report:
    """One sandbox is paused and resumed ``count`` times, with a command after each resume. ``fields``
    are of its create."""
    report = Report("pause", command, {"count": count, "template": template})
    sandbox = await stand.client.create(template, seconds=600, **fields)
    try:
        report.samples["cube"] = await load.run(
            _round(stand.client, sandbox), count=count, concurrency=1, warmup=2, progress=stand.bars("cube", count + 2)
        )
    finally:
        await stand.client.kill(sandbox)
    return report


def _round(client: Client, sandbox: Handle) -> Round:
    """Marks: ``pause``, ``resume``, ``resume+exec`` (until a command has answered)."""

    async def once() -> dict[str, float]:
        begun = time.perf_counter()
        await client.pause(sandbox)
        paused = time.perf_counter()
        await client.resume(sandbox)
        resumed = time.perf_counter()
        await client.command(sandbox, COMMAND)
        answered = time.perf_counter()
        return {"pause": paused - begun, "resume": resumed - paused, "resume+exec": answered - paused}

    return once
