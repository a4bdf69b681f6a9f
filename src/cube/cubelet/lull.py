"""Pauses between requests, in which work is done that would otherwise compete with them for the processors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Lull:
    """Tells when nothing was asked for during some seconds. For one waiting task."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stirred = asyncio.Event()

    def stir(self) -> None:
        """Something was asked for or given back."""
        self._stirred.set()

    @property
    def disturbed(self) -> bool:
        """Whether something was asked for since the last wait."""
        return self._stirred.is_set()

    async def stirred(self, patience: float | None) -> None:
        """Wait until something is asked for, or was since the last wait, but no longer than so many seconds."""
        await self._next(patience)
        self._stirred.clear()

    async def wait(self, urgent: Callable[[], bool]) -> None:
        """Wait for a pause; not at all while ``urgent`` says that the work cannot wait."""
        while not urgent() and await self._next(self._seconds):
            self._stirred.clear()

    async def _next(self, patience: float | None) -> bool:
        """Whether something was asked for in time."""
        try:
            async with asyncio.timeout(patience):
                await self._stirred.wait()
        except TimeoutError:
            return False
        return True
