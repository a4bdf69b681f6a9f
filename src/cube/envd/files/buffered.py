"""Writing a file in big pieces while the next content arrives."""

from __future__ import annotations

import asyncio
import contextlib

from cube.envd.files.blocking import CHUNK
from cube.envd.guest import Buffer, GuestFile
from cube.model.errors import CubeError

#: Pieces of so many bytes are written as they are; smaller ones are put together first.
_BIG = CHUNK // 4


class BufferedWriter:
    """Fills a file, which stays the caller's. What goes wrong with a write is raised by a later call."""

    def __init__(self, file: GuestFile) -> None:
        self._file = file
        self._buffer = bytearray()
        self._pending: asyncio.Future[None] | None = None

    async def write(self, data: Buffer) -> None:
        """Add content; returns when at most one chunk is on its way to the disk.

        That may be ``data`` itself, which must stay as it is until the next call has returned.
        """
        if not self._buffer and len(data) >= _BIG:
            await self._settle()
            self._pending = self._file.write(data)
            return
        self._buffer += data
        if len(self._buffer) >= CHUNK:
            await self._flush()

    async def finish(self) -> None:
        """Return when everything is written."""
        if self._buffer:
            await self._flush()
        await self._settle()

    async def idle(self) -> None:
        """Return when nothing is being written any more, which is when the file may be closed."""
        if self._pending is not None:
            with contextlib.suppress(CubeError):
                await self._pending

    async def _flush(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        await self._settle()
        self._pending = self._file.write(data)

    async def _settle(self) -> None:
        """Wait for the write that is under way; a cancelled caller leaves it to :meth:`idle`."""
        if self._pending is not None:
            await asyncio.shield(self._pending)
            self._pending = None
