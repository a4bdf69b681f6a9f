"""``POST /files/compose``: join files of a sandbox into one, and remove the parts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from cube.envd.files.blocking import CHUNK, submit
from cube.envd.files.writing import FileWriter, written
from cube.envd.guest import Guest
from cube.model.errors import InvalidInput

SOURCE_LIMIT = 10_000


async def compose(guest: Guest, sources: Sequence[str], destination: str, user: str) -> dict[str, object]:
    """Concatenate ``sources`` in order; they are removed once ``destination`` is complete.

    Raises ``InvalidInput`` when the destination is one of the sources, and what the guest raises.
    """
    if not 0 < len(sources) <= SOURCE_LIMIT or not destination:
        raise InvalidInput("source_paths must name at least one file, and destination the file to make")
    paths = [(await guest.stat(source, user)).path for source in sources]
    if destination in (*sources, *paths):
        raise InvalidInput("the destination cannot be one of the sources")
    async with await FileWriter.open(guest, destination, user) as writer:
        for source in sources:
            await _append(guest, source, user, writer)
        await writer.finish({})
    for source in sources:
        await guest.remove(source, user)
    return written(writer.entry, {})


async def _append(guest: Guest, source: str, user: str, writer: FileWriter) -> None:
    opened = await guest.open_read(source, user)
    reading: asyncio.Future[bytes] | None = None
    try:
        while piece := await asyncio.shield(reading := submit(os.read, opened.fd, CHUNK)):
            await writer.write(piece)
    finally:
        # A thread may still read: the descriptor must not be closed under it.
        if reading is not None:
            await asyncio.wait([reading])
        os.close(opened.fd)
