"""Serving an application on a socket, within a process that does more than that."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from cube.envd.bulk import BulkServer

#: Idle connections from the proxy are closed by the proxy, never by us: a request could be on its way.
_KEEP_ALIVE_S = 24 * 3600
#: What streams get to finish when the service ends.
_GRACE_S = 2


class _Server(uvicorn.Server):
    """A server that leaves the signals to the service."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """No handlers."""
        yield


@asynccontextmanager
async def http_server(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    """Serve during the block; requests that are under way at its end get two seconds."""
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=BulkServer,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


def stop_signal() -> asyncio.Future[signal.Signals]:
    """Done with SIGTERM or SIGINT, whichever comes first."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if not ended.done():
            ended.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return ended
