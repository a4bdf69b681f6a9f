"""Standard input of a process, written without ever blocking the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cube.model.errors import Conflict, LimitExceeded

#: Writers that may wait for one process at a time; each holds its message in memory.
WAITING_LIMIT = 16


class InputWriter:
    """Writes to a descriptor in the order of the calls.

    A process that does not read makes the writers wait; a caller that gives up after a part was written
    has written that part.
    """

    def __init__(self, fd: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._writable: asyncio.Future[None] | None = None
        self._closed = False
        os.set_blocking(fd, False)

    async def write(self, data: bytes) -> None:
        """Write all of ``data``; raises ``Conflict`` when the other side or this one has closed."""
        async with self._admitted():
            view = memoryview(data)
            while view:
                view = view[await self._write_some(view) :]

    async def finish(self) -> None:
        """Close once everything before is written."""
        async with self._admitted():
            self.close()

    def close(self) -> None:
        """Close now; a writer that waits fails. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._writable is not None:
            self._wake()
        self._release()

    def _release(self) -> None:
        os.close(self._fd)

    @asynccontextmanager
    async def _admitted(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING_LIMIT:
            raise LimitExceeded("too many requests wait for this process to read its input; wait for them to finish")
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1

    async def _write_some(self, view: memoryview) -> int:
        while not self._closed:
            try:
                return os.write(self._fd, view)
            except BlockingIOError:
                await self._wait_writable()
            except OSError as error:
                raise Conflict("the process has closed its input") from error
        raise Conflict("the input of the process is closed")

    async def _wait_writable(self) -> None:
        self._writable = self._loop.create_future()
        self._loop.add_writer(self._fd, self._wake)
        try:
            await self._writable
        finally:
            if self._writable is not None:
                self._wake()

    def _wake(self) -> None:
        writable, self._writable = self._writable, None
        self._loop.remove_writer(self._fd)
        if writable is not None and not writable.done():
            writable.set_result(None)


class TerminalWriter(InputWriter):
    """Input of a terminal, whose descriptor is also the output and belongs to the pump."""

    def _release(self) -> None:
        return
