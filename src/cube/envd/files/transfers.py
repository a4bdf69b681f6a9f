"""Uploads and downloads that are under way in one sandbox.

Each holds a descriptor of the sandbox's file system. When the sandbox stops they are broken off, so that a client that
reads slowly cannot keep the file system of a dead sandbox alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from cube.envd.sandboxes import EnvdSandbox
from cube.envd.wakeup import Wakeup
from cube.model.errors import SandboxNotRunning

_STATE_KEY = "cube.envd.files"


class Transfers:
    """The tasks that transfer."""

    def __init__(self, sandbox_id: str) -> None:
        self._sandbox_id = sandbox_id
        self._tasks: set[asyncio.Task[object]] = set()
        self._left = Wakeup()
        self._closed = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Mark the current task; raises ``SandboxNotRunning`` when the sandbox stops before the block is left."""
        task = asyncio.current_task()
        if task is None or self._closed:
            raise self._stopped()
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._closed or task.uncancel():
                raise
            raise self._stopped() from None
        finally:
            self._tasks.discard(task)
            self._left.set()

    async def close(self) -> None:
        """Break off what is under way; returns when all descriptors are closed."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await self._left.wait(None)

    def _stopped(self) -> SandboxNotRunning:
        return SandboxNotRunning(self._sandbox_id, "stopped")


def transfers_of(sandbox: EnvdSandbox) -> Transfers:
    """The transfers of a sandbox."""
    transfers = sandbox.state.get(_STATE_KEY)
    if transfers is None:
        transfers = sandbox.state[_STATE_KEY] = Transfers(sandbox.sandbox_id)
    return cast(Transfers, transfers)
