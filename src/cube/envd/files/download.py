"""``GET /files``: a file's content, whole or in part, plain or compressed."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from urllib.parse import quote

from cube.envd.asgi import Receive, Scope, Send, header, respond, respond_json
from cube.envd.call import Connection
from cube.envd.errors import rest_body
from cube.envd.files.blocking import CHUNK, submit
from cube.envd.files.conditions import (
    Span,
    UnsatisfiableRange,
    etag,
    last_modified,
    not_modified,
    requested_range,
)
from cube.envd.files.encoding import Deflater, identity_refused, wants_gzip
from cube.envd.guest import Entry, GuestFile, OpenedFile
from cube.model.errors import HostError

Headers = list[tuple[bytes, bytes]]


async def send_file(scope: Scope, receive: Receive, send: Send, opened: OpenedFile) -> None:
    """Answer ``GET`` or ``HEAD`` with an open file. Closes the file."""
    try:
        await send_content(scope, receive, send, opened)
    finally:
        opened.file.close()


async def send_content(scope: Scope, receive: Receive, send: Send, opened: OpenedFile) -> None:
    """The same, and leaves the file open."""
    await _Download(scope, receive, send, opened).run()


class _Download:
    def __init__(self, scope: Scope, receive: Receive, send: Send, opened: OpenedFile) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._file = opened.file
        self._entry = opened.entry
        self._head = scope["method"] == "HEAD"

    async def run(self) -> None:
        if identity_refused(header(self._scope, b"accept-encoding")):
            await respond_json(self._send, 406, rest_body(406, "no encoding that the client accepts is available"))
        elif not_modified(self._scope, self._entry):
            await respond(self._send, 304, headers=_validators(self._entry))
        elif self._entry.size == 0:
            await self._send_unsized()
        else:
            await self._send_sized()

    async def _send_unsized(self) -> None:
        """An empty file, or one of the kernel's (/proc) that hides its size; of those, no more than a chunk."""
        content = await _read_to_limit(self._file, CHUNK)
        headers = self._describe()
        await respond(self._send, 200, b"" if self._head else content, headers)

    async def _send_sized(self) -> None:
        try:
            span = requested_range(self._scope, self._entry)
        except UnsatisfiableRange:
            headers = [(b"content-range", b"bytes */%d" % self._entry.size), *_validators(self._entry)]
            await respond(self._send, 416, headers=headers)
            return
        if span is None and not header(self._scope, b"range") and wants_gzip(header(self._scope, b"accept-encoding")):
            await self._send_compressed()
        elif span is None and self._entry.size <= CHUNK and not self._head:
            await self._send_at_once()
        else:
            await self._send_plain(span)

    async def _send_at_once(self) -> None:
        """A short file is read before its length is told: whoever writes it anew begins with cutting it off."""
        content = await _read_to_limit(self._file, self._entry.size)
        headers = [*self._describe(), (b"accept-ranges", b"bytes")]
        if len(content) == self._entry.size:
            headers += _validators(self._entry)
        await respond(self._send, 200, content, headers)

    async def _send_plain(self, span: Span | None) -> None:
        headers = [*self._describe(), *_validators(self._entry), (b"accept-ranges", b"bytes")]
        part = span or Span(0, self._entry.size)
        if span is not None:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (span.start, span.stop - 1, self._entry.size)))
        headers.append((b"content-length", b"%d" % (part.stop - part.start)))
        await self._begin(206 if span else 200, headers)
        await self._stream(_pieces(self._file, part))

    async def _send_compressed(self) -> None:
        await self._begin(200, [*self._describe(), (b"content-encoding", b"gzip")])
        await self._stream(_compressed(_pieces(self._file, Span(0, self._entry.size), exact=False)))

    async def _begin(self, status: int, headers: Headers) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _stream(self, pieces: AsyncIterator[bytes]) -> None:
        if not self._head:
            async with _watched(self._receive) as connection, aclosing(pieces):  # type: ignore[type-var]
                async for piece in pieces:
                    if connection.gone:
                        return
                    await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    def _describe(self) -> Headers:
        kind = mimetypes.guess_type(self._entry.name)[0] or "application/octet-stream"
        return [
            (b"content-type", kind.encode()),
            (b"content-disposition", content_disposition(self._entry.name).encode()),
            (b"vary", b"Accept-Encoding"),
        ]


def content_disposition(name: str) -> str:
    """``Content-Disposition`` that carries a file name (RFC 6266), whatever characters it has."""
    if all(" " <= character <= "~" and character not in '"\\' for character in name):
        return f'inline; filename="{name}"'
    return f"inline; filename*=UTF-8''{quote(name, safe='', errors='replace')}"


def _validators(entry: Entry) -> Headers:
    return [(b"etag", etag(entry).encode()), (b"last-modified", last_modified(entry).encode())]


@asynccontextmanager
async def _watched(receive: Receive) -> AsyncIterator[Connection]:
    """Notice when the client goes away: a server takes what is sent after that, and drops it."""
    connection = Connection(receive)

    async def watch() -> None:
        while not connection.gone:
            await connection.receive()

    task = asyncio.create_task(watch())
    try:
        yield connection
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _pieces(file: GuestFile, span: Span, *, exact: bool = True) -> AsyncIterator[bytes]:
    """The bytes of a span; the next piece is read while one is sent.

    Raises ``HostError`` when the file has become shorter, if the length must be ``exact`` because it was told before.
    """
    position = span.start
    ahead = file.read_at(min(CHUNK, span.stop - position), position)
    try:
        while position < span.stop:
            piece = await asyncio.shield(ahead)
            if not piece and exact:
                raise HostError("the file became shorter while it was sent")
            if not piece:
                return
            position += len(piece)
            if position < span.stop:
                ahead = file.read_at(min(CHUNK, span.stop - position), position)
            yield piece
    finally:
        # It must not be closed under whoever still reads.
        await asyncio.wait([ahead])


async def _compressed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    deflater = Deflater()
    async with aclosing(pieces):  # type: ignore[type-var]
        async for piece in pieces:
            if output := await submit(deflater.feed, piece):
                yield output
    yield deflater.finish()


async def _read_to_limit(file: GuestFile, limit: int) -> bytes:
    content = bytearray()
    while len(content) < limit and (piece := await file.read_at(limit - len(content), len(content))):
        content += piece
    return bytes(content)
