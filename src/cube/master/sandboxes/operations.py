"""The work on one sandbox: start, pause, resume. One at a time for each sandbox; what overlaps is refused.

An operation runs to its end whether or not the client that asked for it still waits; only the end of the sandbox cuts
it off. So a lost connection never leaves a sandbox half paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy import Connection

from cube.master.sandboxes.admission import Admission
from cube.master.sandboxes.context import Context, log_failure
from cube.master.sandboxes.logbook import LogLevel
from cube.master.sandboxes.registry import Entry
from cube.model.errors import Conflict, SandboxNotFound, SandboxStopped
from cube.model.network import NetworkConfig
from cube.model.sandbox import OnTimeout, PauseMode, Sandbox, SandboxState

T = TypeVar("T")

#: Seconds that a sandbox is left alone after it could not be paused, even when its time is up.
PAUSE_RETRY_S = 5.0


async def exclusively(entry: Entry, work: Coroutine[Any, Any, T]) -> T:
    """Do ``work`` as the one operation on this sandbox.

    Raises ``Conflict`` when another one is under way or the sandbox is ended meanwhile, ``SandboxNotFound`` when it is
    ending already.
    """
    sandbox_id = entry.sandbox.sandbox_id
    if entry.ending is not None or entry.operation is not None:
        work.close()
        raise SandboxNotFound(sandbox_id) if entry.ending is not None else _busy(entry)
    task = asyncio.create_task(work, name=f"operation-{sandbox_id}")
    entry.operation = task
    task.add_done_callback(lambda _: _release(entry))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled() and not _is_cancelled():
            raise Conflict(f"sandbox {sandbox_id!r} ended while this operation was under way") from None
        raise


def _release(entry: Entry) -> None:
    entry.operation = None


def _is_cancelled() -> bool:
    """Whether it is the caller that has been cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _busy(entry: Entry) -> Conflict:
    sandbox = entry.sandbox
    return Conflict(
        f"another operation on sandbox {sandbox.sandbox_id!r} is under way ({sandbox.state.value}): try again"
    )


class Operations:
    """What the operations do, in the order that survives a crash at any point.

    Writing runs beside the node's work, never behind it: a sandbox that the node knows and the store does not is ended
    by the next start, and one that the store knows and the node does not is recorded as ended. Only the answer to the
    client waits for the disk.
    """

    def __init__(self, context: Context, admission: Admission) -> None:
        self._context = context
        self._admission = admission

    async def start(self, entry: Entry, seconds: int, also: Callable[[Connection], None] | None = None) -> Sandbox:
        """Bring a new sandbox up; its timeout begins when it answers. ``also`` is recorded together with it."""
        context = self._context
        recorded = context.store.insert(entry.sandbox, entry.spec.template, also)
        log_failure(recorded)
        async with self._admission.turn(entry.caller):
            await context.node.create(entry.spec)
        if entry.spec.template.start is not None:  # by its own time, not in the turn of others
            await context.node.begin(entry.sandbox.sandbox_id)
        # That it runs need not be on the disk for the client to be told: after a crash it is found to be alive.
        log_failure(context.move(entry, SandboxState.RUNNING, end_at=context.in_seconds(seconds)))
        await recorded
        return entry.sandbox

    async def pause(self, entry: Entry, mode: PauseMode = PauseMode.FULL) -> None:
        """Pause a running sandbox; it runs on when that fails, or else is paused with its files alone."""
        context = self._context
        log_failure(context.move(entry, SandboxState.PAUSING, pause_mode=mode))
        try:
            await context.node.pause(entry.sandbox.sandbox_id, memory=mode is PauseMode.FULL)
        except SandboxStopped:
            self._stopped(entry)
            raise
        except Exception:
            log_failure(context.move(entry, SandboxState.RUNNING))
            context.postpone(entry, PAUSE_RETRY_S)
            raise
        await context.move(entry, SandboxState.PAUSED)

    async def resume(
        self, entry: Entry, seconds: int, on_timeout: OnTimeout | None = None, *, memory: bool = True
    ) -> Sandbox:
        """Let a paused sandbox go on, with a new deadline; it stays paused when that fails.

        Without ``memory`` its processes start from the beginning, even where the pause has kept them.
        """
        context = self._context
        log_failure(context.move(entry, SandboxState.RESUMING))
        try:
            await context.node.resume(entry.sandbox.sandbox_id, memory=memory)
        except SandboxStopped:
            self._stopped(entry)
            raise
        except Exception:
            log_failure(context.move(entry, SandboxState.PAUSED))
            raise
        await context.move(entry, SandboxState.RUNNING, end_at=context.in_seconds(seconds), on_timeout=on_timeout)
        return entry.sandbox

    async def update_network(self, entry: Entry, network: NetworkConfig) -> None:
        """Replace what a sandbox may reach; when that fails, it may reach what it did."""
        await self._context.node.update_network(entry.sandbox.sandbox_id, network)
        await self._context.set_network(entry, network)

    async def rollback(self, entry: Entry, snapshot_id: str) -> Sandbox:
        """Make a running sandbox what a snapshot holds. It runs on unchanged when that fails, or else is paused with
        the snapshot's files alone."""
        context = self._context
        log_failure(context.move(entry, SandboxState.ROLLING_BACK))
        try:
            await context.node.rollback(entry.sandbox.sandbox_id, snapshot_id)
        except SandboxStopped:
            self._stopped(entry)
            raise
        except Exception:
            log_failure(context.move(entry, SandboxState.RUNNING))
            raise
        await context.move(entry, SandboxState.RUNNING)
        return entry.sandbox

    def _stopped(self, entry: Entry) -> None:
        """Note that a sandbox has lost its processes, but not its files."""
        log_failure(self._context.move(entry, SandboxState.PAUSED, pause_mode=PauseMode.FILESYSTEM))
        self._context.logs.note(entry.sandbox.sandbox_id, "Processes lost, files kept", LogLevel.ERROR)
