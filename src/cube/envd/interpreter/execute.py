"""The response of ``/execute``: what a cell does, as lines, while the client listens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cube.envd.asgi import Receive, Send
from cube.envd.interpreter.contexts import Context
from cube.envd.interpreter.events import Event, Failed
from cube.envd.interpreter.kernel import Cell, KernelDied
from cube.envd.interpreter.lines import END, KEEPALIVE, error, line
from cube.model.errors import CubeError

#: Silence after which a line is sent that means nothing, in seconds; proxies and clients see that we are alive.
KEEPALIVE_SECONDS = 5.0


class LineStream:
    """The body of one response; several tasks may send."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._turn = asyncio.Lock()
        self._spoken = asyncio.Event()
        self._over = False

    async def send(self, lines: bytes, *, last: bool = False) -> None:
        """Send whole lines; waits while the client does not read."""
        async with self._turn:
            self._spoken.set()
            if not self._over:
                self._over = last
                await self._send({"type": "http.response.body", "body": lines, "more_body": not last})

    def abandon(self) -> None:
        """Send nothing more; the client has gone."""
        self._over = True

    async def keep_alive(self) -> None:
        """Break every silence; runs until cancelled."""
        while True:
            self._spoken.clear()
            try:  # not wait_for, which in Python 3.11 may lose a cancellation
                async with asyncio.timeout(KEEPALIVE_SECONDS):
                    await self._spoken.wait()
            except TimeoutError:
                await self.send(KEEPALIVE)


class ExecuteResponse:
    """Runs a cell in a context and tells the client."""

    def __init__(self, context: Context, cell: Cell, send: Send) -> None:
        self._context = context
        self._cell = cell
        self._send = send
        self._stream = LineStream(send)
        self._error_sent = False

    async def run(self, receive: Receive, cut_off: Callable[[], Awaitable[bool]]) -> None:
        """Answer. The cell is interrupted as soon as the client has gone.

        ``cut_off`` is asked when a kernel has died: whether the sandbox is gone too, and the response has to break off
        instead of ending properly.
        """
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._work(cut_off))
            keeper = group.create_task(self._stream.keep_alive())
            watcher = group.create_task(self._watch(receive, work))
            await asyncio.wait({work})
            keeper.cancel()
            watcher.cancel()

    async def _watch(self, receive: Receive, work: asyncio.Task[None]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._stream.abandon()
        work.cancel()

    async def _work(self, cut_off: Callable[[], Awaitable[bool]]) -> None:
        try:
            await self._context.run(self._cell, self._pass_on)
        except KernelDied as death:
            if await cut_off():
                return
            await self._fail(death.name, death.message)
        except CubeError as failure:
            await self._fail(type(failure).__name__, failure.message)
        await self._stream.send(END, last=True)

    async def _fail(self, name: str, message: str) -> None:
        if not self._error_sent:
            await self._stream.send(error(name, message, message))

    async def _pass_on(self, events: list[Event]) -> None:
        self._error_sent = self._error_sent or any(isinstance(event, Failed) for event in events)
        if lines := b"".join(map(line, events)):
            await self._stream.send(lines)


_HEADERS = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
