"""Forks: several sandboxes that begin as another one is now.

The source is captured once, into a snapshot that is never recorded: a crash leaves it to the next start. The forks
start side by side, each for itself; when whoever asked is gone, none of them remains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import structlog

from cube.master.sandboxes.context import Context
from cube.master.sandboxes.endings import Endings
from cube.master.sandboxes.lifecycle import end_after
from cube.master.sandboxes.operations import exclusively
from cube.master.sandboxes.registry import Entry
from cube.model.errors import CubeError
from cube.model.ids import new_sandbox_id, new_snapshot_id, new_token
from cube.model.sandbox import Ingress, Sandbox, SandboxState

log = structlog.get_logger(__name__)

#: Starts a sandbox of this entry, whose time is up after so many seconds; undoes everything when it fails.
Start = Callable[[Entry, int], Awaitable[Sandbox]]


class Forks:
    """Makes forks."""

    def __init__(self, context: Context, endings: Endings, start: Start) -> None:
        self._context = context
        self._endings = endings
        self._start = start

    async def of(self, source: Entry, count: int, seconds: int, *, memory: bool) -> list[Sandbox | CubeError]:
        """One sandbox or failure per fork. Raises what the capture raises, and ``Conflict`` when the source is busy.

        When the caller is cancelled, no fork remains.
        """
        snapshot_id = new_snapshot_id()
        node = self._context.node
        try:
            await exclusively(source, node.snapshot(source.sandbox.sandbox_id, snapshot_id, memory=memory))
            self._context.logs.note(source.sandbox.sandbox_id, "Forked", count=str(count))
            return await self._started(source, count, seconds, snapshot_id)
        finally:
            self._context.background.start(self._forget(snapshot_id, source.operation), f"forget-{snapshot_id}")

    async def _started(self, source: Entry, count: int, seconds: int, snapshot_id: str) -> list[Sandbox | CubeError]:
        forks = [self._entry(source, snapshot_id, seconds) for _ in range(count)]
        starts = [asyncio.create_task(self._attempt(fork, seconds), name="fork") for fork in forks]
        try:
            return list(await asyncio.gather(*starts))
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.wait(starts)
            for fork in forks:
                if self._context.registry.find(fork.sandbox.sandbox_id) is fork:
                    self._endings.begin(fork)
            raise

    async def _attempt(self, fork: Entry, seconds: int) -> Sandbox | CubeError:
        try:
            return await self._start(fork, seconds)
        except CubeError as error:
            return error

    def _entry(self, source: Entry, snapshot_id: str, seconds: int) -> Entry:
        """A sandbox like the source in everything but its identity: tokens are its own, and so is its time."""
        now = self._context.clock.now()
        ingress = source.sandbox.ingress
        sandbox = replace(
            source.sandbox,
            sandbox_id=new_sandbox_id(),
            state=SandboxState.CREATING,
            started_at=now,
            # Its time counts from its answer, but this is what a restart finds if that was not recorded any more.
            end_at=end_after(now, seconds),
            envd_access_token=new_token(),
            ingress=replace(ingress, traffic_access_token=new_token()) if _closed(ingress) else ingress,
            snapshot_id=None,
            pause_mode=None,
        )
        spec = replace(
            source.spec,
            sandbox_id=sandbox.sandbox_id,
            envd_access_token=sandbox.envd_access_token,
            snapshot_id=snapshot_id,
        )
        return Entry(sandbox, spec, source.caller)

    async def _forget(self, snapshot_id: str, capture: asyncio.Task[Any] | None) -> None:
        """Remove the snapshot, once nobody is making it; what cannot be removed now is by the next start."""
        if capture is not None:
            await asyncio.wait({capture})
        try:
            await self._context.node.delete_snapshot(snapshot_id)
        except CubeError as error:
            log.warning("snapshot.not_removed", snapshot=snapshot_id, reason=error.message)


def _closed(ingress: Ingress) -> bool:
    return ingress.traffic_access_token is not None
