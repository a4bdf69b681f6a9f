"""Notices clients that leave before they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException
from starlette.requests import Request

#: nginx's number for "the client closed the connection"; nobody reads it but the log.
CLIENT_CLOSED_REQUEST = 499


@asynccontextmanager
async def cancelled_when_client_leaves(request: Request) -> AsyncIterator[None]:
    """Cancel the block when the client closes its connection. The request's body must have been read."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine runs in a task
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watcher = asyncio.create_task(watch(), name="client-watch")
    try:
        yield
    except asyncio.CancelledError:
        if left and task.uncancel() == 0:
            raise HTTPException(CLIENT_CLOSED_REQUEST, "the client closed the connection") from None
        raise
    finally:
        watcher.cancel()
