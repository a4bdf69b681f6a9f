"""The inside of a sandbox, reached through its process 1."""

from __future__ import annotations

import asyncio

from cube.cubelet.runtime.guest import files, processes
from cube.cubelet.runtime.guest.control import ControlConnection, RequestFailed
from cube.cubelet.runtime.guest.failures import error_of
from cube.cubelet.runtime.guest.link import Link, Message
from cube.cubelet.runtime.guest.processes import ControlProcess
from cube.cubelet.runtime.guest.watch import ControlWatch
from cube.cubelet.runtime.guest.wire import Kind, Reader
from cube.envd.guest import Entry, Guest, OpenedFile, SpawnRequest


class ControlGuest(Guest):
    """Implements ``Guest``. Owns the link; made and used on one event loop.

    A ``READY`` that is still on its way may be left on the link: it is skipped.
    """

    def __init__(self, link: Link, sandbox_id: str) -> None:
        self._connection = ControlConnection(link, sandbox_id)

    @property
    def closed(self) -> asyncio.Event:
        """Set when the connection has ended; unless :meth:`close` did it, the sandbox died."""
        return self._connection.closed

    async def close(self) -> None:
        """End the connection. What runs in the sandbox goes on running; whoever waits here is told ``Unavailable``."""
        self._connection.close()

    async def ping(self) -> None:
        try:
            answer = await self._connection.request(Kind.PING)
        except RequestFailed as error:
            raise error_of(error.failure, user="", path="") from None
        self._connection.decode(answer, Kind.OK, _nothing)

    async def spawn(self, request: SpawnRequest) -> ControlProcess:
        return await processes.spawn(self._connection, request)

    async def open_read(self, path: str, user: str) -> OpenedFile:
        return await files.open_file(self._connection, path, user, create=False)

    async def open_write(self, path: str, user: str, *, mode: int = 0o666) -> OpenedFile:
        return await files.open_file(self._connection, path, user, create=True, mode=mode)

    async def stat(self, path: str, user: str) -> Entry:
        return await files.stat_path(self._connection, path, user)

    async def list_dir(self, path: str, user: str, depth: int) -> list[Entry]:
        return await files.list_dir(self._connection, path, user, depth)

    async def make_dir(self, path: str, user: str) -> Entry:
        return await files.make_dir(self._connection, path, user)

    async def move(self, source: str, destination: str, user: str) -> Entry:
        return await files.move(self._connection, source, destination, user)

    async def remove(self, path: str, user: str) -> None:
        await files.remove(self._connection, path, user)

    async def watch(self, path: str, user: str, *, recursive: bool) -> ControlWatch:
        watch = ControlWatch(self._connection, path, user, recursive=recursive)
        await watch.start()
        return watch


def _nothing(message: Message) -> None:
    Reader(message.body).end()
