"""Files that clients upload for COPY steps: archives, kept as they came and named by what the client calls them.

The host never looks into one: it is unpacked in the sandbox of a build. What has not been used for a week is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cube.model.builds import FILES_HASH
from cube.model.errors import InvalidInput, PermissionDenied, StorageFull
from cube.model.ids import new_token

#: Seconds for which a link is good, and after which an unused upload is removed.
_LINK_S, _UNUSED_S = 3600.0, 7 * 24 * 3600.0
#: Links that are good at one time; the oldest gives way.
_LINKS = 10_000
#: What uploads leave free on their file system, in bytes.
_RESERVE = 512 << 20
_UNFINISHED = ".new-"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Upload:
    """An archive. ``packing`` is what ``tar`` must be told of it: ``z``, or nothing."""

    path: Path
    packing: str


class Uploads:
    """The uploads of one node. Methods are for one event loop."""

    def __init__(self, directory: Path, largest: int) -> None:
        """At most ``largest`` bytes each."""
        self._directory = directory
        self._largest = largest
        #: By token: what may be uploaded, and until when.
        self._links: dict[str, tuple[str, float]] = {}

    def open(self) -> None:
        """Make the directory, and clear away what was not finished or not used. Blocks."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        horizon = time.time() - _UNUSED_S
        for path in self._directory.iterdir():
            if path.name.startswith(_UNFINISHED) or path.stat().st_mtime < horizon:
                path.unlink()

    def has(self, files_hash: str) -> bool:
        """Whether there is such an upload."""
        return self._path(files_hash).exists()

    def link(self, files_hash: str) -> str:
        """A token with which this may be uploaded, for an hour. Raises ``InvalidInput``."""
        self._path(files_hash)
        if len(self._links) >= _LINKS:
            del self._links[next(iter(self._links))]
        token = new_token()
        self._links[token] = (files_hash, time.monotonic() + _LINK_S)
        return token

    async def receive(self, files_hash: str, token: str, content: AsyncIterator[bytes]) -> None:
        """Take an upload in, instead of an earlier one of that name; seen when it is whole.

        Raises ``PermissionDenied`` (the token), ``InvalidInput`` (too large), ``StorageFull``; nothing is kept then.
        """
        granted, until = self._links.get(token, ("", 0.0))
        if granted != files_hash or until < time.monotonic():
            raise PermissionDenied("the link is not good (any more): ask for another one")
        draft = self._directory / f"{_UNFINISHED}{secrets.token_hex(8)}"
        try:
            with await asyncio.to_thread(_create, draft) as file:
                await self._write(file, content)
            await asyncio.to_thread(draft.rename, self._path(files_hash))
        except OSError as error:
            raise StorageFull(f"the upload could not be kept: {error.strerror}") from error
        finally:
            draft.unlink(missing_ok=True)
        del self._links[token]

    async def _write(self, file: BinaryIO, content: AsyncIterator[bytes]) -> None:
        room = os.statvfs(self._directory)
        left, size = room.f_bavail * room.f_frsize - _RESERVE, 0
        async for chunk in content:
            size += len(chunk)
            if size > self._largest:
                raise InvalidInput(f"an upload has at most {self._largest} bytes (CUBE_BUILD_UPLOAD_MB)")
            if size > left:
                raise StorageFull("the node has no room left for uploads")
            await asyncio.to_thread(file.write, chunk)

    @asynccontextmanager
    async def using(self, files_hash: str) -> AsyncIterator[Upload]:
        """An upload; raises ``InvalidInput`` when there is none."""
        path = self._path(files_hash)
        try:
            packing = await asyncio.to_thread(_packing, path)
        except FileNotFoundError:
            raise InvalidInput(f"the files {files_hash} have not been uploaded", field="filesHash") from None
        yield Upload(path, packing)

    def _path(self, files_hash: str) -> Path:
        if FILES_HASH.fullmatch(files_hash) is None:
            raise InvalidInput("filesHash must be 64 hexadecimal digits", field="filesHash")
        return self._directory / files_hash


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _packing(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    with contextlib.suppress(OSError):
        os.utime(path)
    return "z" if start == _GZIP else ""
