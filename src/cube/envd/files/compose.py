"""``POST /files/compose``: join files of a sandbox into one, and remove the parts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cube.envd.files.blocking import CHUNK
from cube.envd.files.writing import FileWriter, written
from cube.envd.guest import Guest
from cube.model.errors import InvalidInput, NotFound

SOURCE_LIMIT = 1000


async def compose(guest: Guest, sources: Sequence[str], destination: str, user: str) -> dict[str, object]:
    """Concatenate ``sources`` in order; they are removed once ``destination`` is complete.

    Raises ``InvalidInput`` when the destination is one of the sources, and what the guest raises.
    """
    if not 0 < len(sources) <= SOURCE_LIMIT or not destination:
        raise InvalidInput(f"source_paths must name from 1 to {SOURCE_LIMIT} files, and destination the file to make")
    # Opening the destination empties it: a source, whatever its name there, must not be it.
    if await _identity_if_any(guest, destination, user) in [await _identity(guest, one, user) for one in sources]:
        raise InvalidInput("the destination cannot be one of the sources")
    async with await FileWriter.open(guest, destination, user) as writer:
        for source in sources:
            await _append(guest, source, user, writer)
        await writer.finish({})
    for source in sources:
        await guest.remove(source, user)
    return written(writer.entry, {})


async def _identity(guest: Guest, path: str, user: str) -> tuple[int, int]:
    opened = await guest.open_read(path, user)
    try:
        return await opened.file.identity()
    finally:
        opened.file.close()


async def _identity_if_any(guest: Guest, path: str, user: str) -> tuple[int, int] | None:
    try:
        return await _identity(guest, path, user)
    except NotFound:
        return None


async def _append(guest: Guest, source: str, user: str, writer: FileWriter) -> None:
    opened = await guest.open_read(source, user)
    reading: asyncio.Future[bytes] | None = None
    position = 0
    try:
        while piece := await asyncio.shield(reading := opened.file.read_at(CHUNK, position)):
            position += len(piece)
            await writer.write(piece)
    finally:
        # It must not be closed under whoever still reads.
        if reading is not None:
            await asyncio.wait([reading])
        opened.file.close()
