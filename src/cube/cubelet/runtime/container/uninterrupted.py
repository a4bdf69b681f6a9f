"""Work that a cancellation does not leave behind unfinished."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` in a thread. A caller that is cancelled learns of it when the call has returned, so that it can
    undo what was done; the thread of ``asyncio.to_thread`` would still be at it."""
    return await settled(asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs)))


async def settled(work: asyncio.Future[T]) -> T:
    """The outcome of work in a thread; a caller that is cancelled learns of it when the work has ended."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((work,))
        work.exception()  # nobody is left to hear of it
        raise


async def protected(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end even when the caller is cancelled meanwhile; the cancellation goes on afterwards."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError
