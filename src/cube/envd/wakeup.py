"""Waiting for "something happened" with a time limit, cheaper than ``asyncio.wait_for`` around an event."""

from __future__ import annotations

import asyncio


class Wakeup:
    """A flag that one task waits for. :meth:`set` may be called at any time, also before the wait."""

    __slots__ = ("_future", "_loop", "_set")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._set = False

    def set(self) -> None:
        """Let the waiting task go on, or the next wait return at once."""
        self._set = True
        self._finish()

    async def wait(self, timeout: float | None) -> bool:  # noqa: ASYNC109  it is the primitive
        """Wait until set or for ``timeout`` seconds; says whether it was set, and clears it."""
        if not self._set and (timeout is None or timeout > 0):
            await self._sleep(timeout)
        was_set, self._set = self._set, False
        return was_set

    async def _sleep(self, timeout: float | None) -> None:  # noqa: ASYNC109
        self._future = self._loop.create_future()
        timer = None if timeout is None else self._loop.call_later(timeout, self._finish)
        try:
            await self._future
        finally:
            self._future = None
            if timer is not None:
                timer.cancel()

    def _finish(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
