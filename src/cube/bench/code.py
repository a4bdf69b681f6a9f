"""How fast code runs: the first ``run_code`` of a new sandbox, and later ones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from cube.bench import load
from cube.bench.client import Client, Handle
from cube.bench.load import Round, RoundFailed
from cube.bench.report import Report
from cube.bench.stand import Stand

_CODE, _ANSWER = "1+1", "2"


async def measure(stand: Stand, count: int, later: int, template: str, command: str, **fields: object) -> Report:
    """``count`` sandboxes one after the other, with ``later`` executions after the first in each; ``fields`` are of
    each create."""
    report = Report("run-code", command, {"count": count, "later": later, "template": template})
    once = _round(stand.client, template, later, fields)
    report.samples["cube"] = await load.run(
        once, count=count, concurrency=1, warmup=2, progress=stand.bars("cube", count + 2)
    )
    return report


def _round(client: Client, template: str, later: int, fields: Mapping[str, Any]) -> Round:
    """Marks: ``create``, ``first`` (begun when the create has answered), ``create+first``, ``later`` (median of the
    round)."""

    async def once() -> dict[str, float]:
        begun = time.perf_counter()
        sandbox = await client.create(template, **fields)
        created = time.perf_counter()
        try:
            first = await _timed(client, sandbox)
            others = sorted([await _timed(client, sandbox) for _ in range(later)])
        finally:
            await client.kill(sandbox)
        create = created - begun
        return {"create": create, "first": first, "create+first": create + first, "later": others[len(others) // 2]}

    return once


async def _timed(client: Client, sandbox: Handle) -> float:
    begun = time.perf_counter()
    answer = await client.run_code(sandbox, _CODE)
    elapsed = time.perf_counter() - begun
    if answer != _ANSWER:
        raise RoundFailed(f"the code gave {answer!r}")
    return elapsed
