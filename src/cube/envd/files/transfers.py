"""Uploads and downloads that are under way in one file system, which is that of a sandbox or a volume.

Each holds a descriptor of it. When it goes they are broken off, so that a client that reads slowly cannot keep the file
system of a dead sandbox alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

from cube.envd.sandboxes import EnvdSandbox
from cube.envd.wakeup import Wakeup
from cube.model.errors import CubeError, SandboxNotRunning

_STATE_KEY = "cube.envd.files"


class Transfers:
    """The tasks that transfer."""

    def __init__(self, stopped: Callable[[], CubeError]) -> None:
        """``stopped`` makes what those get that are broken off."""
        self._stopped = stopped
        self._tasks: set[asyncio.Task[object]] = set()
        self._left = Wakeup()
        self._closed = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Mark the current task; raises what ``stopped`` makes when this is closed before the block is left."""
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


def transfers_of(sandbox: EnvdSandbox) -> Transfers:
    """The transfers of a sandbox."""
    transfers = sandbox.state.get(_STATE_KEY)
    if transfers is None:
        stopped = partial(SandboxNotRunning, sandbox.sandbox_id, "stopped")
        transfers = sandbox.state[_STATE_KEY] = Transfers(stopped)
    return cast(Transfers, transfers)
