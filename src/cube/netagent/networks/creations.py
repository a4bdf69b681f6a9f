"""The guard of creations: one at a time for each sandbox, shared by all who ask for it meanwhile.

Looking whether a sandbox has something, and registering that it is being made, happen without anything being awaited in
between. Two who look one after the other can therefore never both find nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Generic, TypeVar

from cube.model.errors import Conflict

T = TypeVar("T")


class ConcurrentCreationFailed(Conflict):
    """Somebody else's creation was waited for, and failed."""

    def __init__(self, key: str) -> None:
        super().__init__(f"concurrent network creation for sandbox {key} failed")


@dataclass(slots=True, eq=False)
class _Creation(Generic[T]):
    task: asyncio.Task[T]
    #: Who waits for it.
    waiting: int = 0


class Creations(Generic[T]):
    """What is being made, by key. Use from one event loop."""

    def __init__(self) -> None:
        self._running: dict[str, _Creation[T]] = {}

    async def join(self, key: str, make: Callable[[], Coroutine[object, object, T]]) -> T:
        """What ``make`` gives, which is called unless a creation is under way; nothing is awaited before.

        When nobody waits any more the creation is cancelled, and has ended when this returns. The one who began it gets
        its own error, others ``ConcurrentCreationFailed``.
        """
        creation = self._running.get(key)
        first = creation is None
        if creation is None:
            creation = _Creation(asyncio.create_task(self._made(key, make), name=f"network {key}"))
            self._running[key] = creation
        return await self._wait(key, creation, first=first)

    def under_way(self, key: str) -> bool:
        """Whether something is being made for a key."""
        return key in self._running

    async def settled(self, key: str) -> None:
        """Wait until nothing is under way for a key, whatever becomes of it."""
        while (creation := self._running.get(key)) is not None:
            await asyncio.wait({creation.task})

    async def close(self) -> None:
        """Cancel everything that is under way, and wait for its end."""
        tasks = {creation.task for creation in self._running.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _made(self, key: str, make: Callable[[], Coroutine[object, object, T]]) -> T:
        try:
            return await make()
        finally:
            # In the same step as the result, so that nobody finds neither.
            del self._running[key]

    async def _wait(self, key: str, creation: _Creation[T], *, first: bool) -> T:
        creation.waiting += 1
        try:
            await asyncio.wait({creation.task})
        finally:
            creation.waiting -= 1
            if not creation.waiting and not creation.task.done():
                creation.task.cancel()
                await asyncio.wait({creation.task})
        return creation.task.result() if first else self._result(key, creation.task)

    def _result(self, key: str, task: asyncio.Task[T]) -> T:
        if task.cancelled() or task.exception() is not None:
            raise ConcurrentCreationFailed(key)
        return task.result()
