"""The first thing after a start: what is recorded is compared with what runs, and the two are made one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import structlog

from cube.cubelet.agent import Recovered
from cube.master.sandboxes.context import Context, log_failure
from cube.master.sandboxes.lifecycle import RECOVERED, as_found, wanted
from cube.master.sandboxes.logbook import LogLevel
from cube.master.sandboxes.registry import REMEMBERED, Entry
from cube.master.store.records import SandboxRecord
from cube.model.sandbox import Condition, SandboxState

log = structlog.get_logger(__name__)


async def recover(context: Context, snapshots: Collection[str]) -> set[str]:
    """Take over what still runs; record the rest as ended. Deadlines that have passed act at once.

    Snapshots that are not listed are removed; returns those of the listed that are there.

    A sandbox whose creation was cut off runs if it got so far as to answer. A pause or resume is completed; what lost
    its processes over a resume or rollback that was cut off is paused, with its files alone.
    """
    for sandbox_id, ended_at in await context.store.ended(REMEMBERED):
        context.registry.end(sandbox_id, ended_at)
    records = await context.store.live()
    recovered = await _found(context, records, snapshots)
    now = context.clock.now()
    for record in records:
        condition = recovered.sandboxes.get(record.sandbox.sandbox_id)
        if condition is not None:
            _take_over(context, record, condition)
        else:
            _give_up(context, record, now)
    return recovered.snapshots


async def _found(context: Context, records: Sequence[SandboxRecord], snapshots: Collection[str]) -> Recovered:
    listed = [
        (record.spec, wanted(record.sandbox))
        for record in records
        if record.sandbox.state in RECOVERED and record.sandbox.runtime == context.node.runtime
    ]
    return await context.node.recover(listed, snapshots)


def _take_over(context: Context, record: SandboxRecord, condition: Condition) -> None:
    sandbox = as_found(record.sandbox, condition)
    context.registry.add(Entry(sandbox, record.spec))
    context.logs.note(sandbox.sandbox_id, "Taken over after a restart of the service")
    if sandbox != record.sandbox:
        log_failure(context.store.update(sandbox))
    if sandbox.state is SandboxState.RUNNING:
        context.timer.set(sandbox.sandbox_id, sandbox.end_at)


def _give_up(context: Context, record: SandboxRecord, now: datetime) -> None:
    sandbox_id = record.sandbox.sandbox_id
    log.warning("sandbox.lost", sandbox=sandbox_id, state=record.sandbox.state.value)
    context.logs.note(sandbox_id, "Lost while the service was down", LogLevel.ERROR)
    context.logs.end(sandbox_id)
    context.registry.end(sandbox_id, now)
    store = context.store
    never_ran = record.sandbox.state is SandboxState.CREATING
    log_failure(store.abandon(sandbox_id, now) if never_ran else store.end(sandbox_id, now))
