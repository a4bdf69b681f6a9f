"""The event loop of cells that use ``await``; it lives as long as the kernel, so tasks survive their cell.

``asyncio`` is imported by the first of them: it is a quarter of everything that a kernel would load otherwise.
"""

from __future__ import annotations

import queue
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class CellLoop:
    """Runs coroutines of cells, and runs on between cells while tasks are pending."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run one cell to its end. An interrupt cancels it, and leaves its other tasks alone."""
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        cell = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(cell)
        except KeyboardInterrupt:
            cell.cancel()
            self._loop.run_until_complete(asyncio.gather(cell, return_exceptions=True))
            raise

    def next_request(self, inbox: queue.SimpleQueue[dict[str, Any]]) -> dict[str, Any]:
        """Wait for a request; tasks that earlier cells have started make progress meanwhile."""
        loop = self._loop
        if loop is None or loop.is_closed() or not _has_tasks(loop):
            return inbox.get()
        return loop.run_until_complete(loop.run_in_executor(None, inbox.get))


def _has_tasks(loop: asyncio.AbstractEventLoop) -> bool:
    import asyncio

    return bool(asyncio.all_tasks(loop))
