"""Writing one file of a sandbox while its content still arrives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from cube.envd.files.buffered import BufferedWriter
from cube.envd.files.metadata import attribute_changes
from cube.envd.guest import Buffer, Entry, FileType, Guest, OpenedFile
from cube.model.errors import CubeError, NotFound


class FileWriter:
    """Opens, fills and closes a file; use it as ``async with await FileWriter.open(…) as writer``.

    A watcher sees CREATE, CHMOD (the guest's chown) and WRITE, in this order, for a new file that fits into one chunk,
    as with E2B's envd.
    The target itself is written, not a temporary file beside it; so when the block is left by an error, a file that did
    not exist before is removed, and one that did is left cut off where the content ended.
    """

    def __init__(self, guest: Guest, user: str, opened: OpenedFile, *, is_new: bool) -> None:
        self.entry = opened.entry
        self._guest = guest
        self._user = user
        self._file = opened.file
        self._is_new = is_new
        self._content = BufferedWriter(opened.file)

    @classmethod
    async def open(cls, guest: Guest, path: str, user: str) -> FileWriter:
        """Create or truncate ``path``, with its parents."""
        is_new = await _is_missing(guest, path, user)
        return cls(guest, user, await guest.open_write(path, user), is_new=is_new)

    async def write(self, data: Buffer) -> None:
        """Add content; returns when at most one chunk is on its way to the disk, ``data`` itself perhaps."""
        await self._content.write(data)

    async def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the rest, and make ``metadata`` the file's whole metadata."""
        await self._content.finish()
        if metadata or self.entry.metadata:
            await self._file.set_attributes(attribute_changes(self.entry.metadata, metadata))

    async def __aenter__(self) -> FileWriter:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        closing = asyncio.ensure_future(self._close(broken=kind is not None))
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing
            raise

    async def _close(self, *, broken: bool) -> None:
        await self._content.idle()
        await self._file.finish()
        if broken and self._is_new:
            with contextlib.suppress(CubeError):
                await self._guest.remove(self.entry.path, self._user)


async def _is_missing(guest: Guest, path: str, user: str) -> bool:
    try:
        await guest.stat(path, user)
    except NotFound:
        return True
    return False


def written(entry: Entry, metadata: Mapping[str, str]) -> dict[str, object]:
    """How an upload is answered, per file."""
    answer: dict[str, object] = {"path": entry.path, "name": entry.name, "type": FileType.FILE.name.lower()}
    return {**answer, "metadata": dict(metadata)} if metadata else answer
