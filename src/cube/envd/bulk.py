"""Long request bodies, read into the memory that they are written from.

On its usual way through the server a byte of a body is copied four times before the file system gets it. An application
that asks for a body in bulk gets pieces of one or four MiB that the kernel has filled itself; the server's parser,
which has seen the head and knows how long the body is, is left out until the next request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cube.envd.aligned import aligned_buffer
from cube.envd.asgi import ClientDisconnected, Receive, Scope, body_chunks

#: Name of the server's offer among the ASGI extensions of a request.
EXTENSION: Final = "cube.bulk"
#: Bytes of a piece; shorter bodies are not worth the change.
PIECE: Final = 1024 * 1024
#: Bytes of a piece of a long body: a direct write of one mebibyte waits as long for its turn as for the disk.
LARGE_PIECE: Final = 4 * PIECE
#: From so many bytes on a body is long.
_LONG: Final = 64 * PIECE
#: Bodies that get large pieces at a time, two each; the memory of more is not spent.
_LARGE_AT_ONCE: Final = 8


class Bulk(Protocol):
    """The offer to read the rest of a body in bulk."""

    def pieces(self) -> AsyncGenerator[bytes | bytearray]:
        """The rest of the body; see :func:`pieces`. What is left when it is closed early is read and thrown away: it is
        never taken for a request, and the proxy, which still sends it, hears the answer."""
        ...

    def align(self, position: int) -> None:
        """See :func:`align`."""
        ...


def pieces(scope: Scope, receive: Receive) -> AsyncGenerator[bytes | bytearray]:
    """The request body, in bulk where the server offers that. Close it before the request is answered.

    A piece stays as it is until the second next one is asked for. Raises :class:`ClientDisconnected`.
    """
    offer = scope.get("extensions", {}).get(EXTENSION)
    return body_chunks(receive) if offer is None else cast(Bulk, offer).pieces()


def align(scope: Scope, position: int) -> None:
    """Let pieces end whole pieces after this byte of the body.

    A file that begins there is written in whole pages then: a page that two writes share is waited for, while the disk
    has it, and costs twice.
    """
    offer = scope.get("extensions", {}).get(EXTENSION)
    if offer is not None:
        cast(Bulk, offer).align(position)


class BulkServer(HttpToolsProtocol):
    """uvicorn's protocol, with the offer for every body of a length that is known and worth it."""

    _length = 0
    _parsed = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._length = self._parsed = 0

    def on_headers_complete(self) -> None:
        self._length = _announced(self.headers)
        if self._length > PIECE:
            cast(Any, self.scope)["extensions"] = {EXTENSION: _Taken(self)}
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._parsed += len(body)
        super().on_body(body)

    @property
    def length(self) -> int:
        """Bytes of the body, 0 when that is not known beforehand."""
        return self._length

    @property
    def unparsed(self) -> int:
        """Bytes of the body that the parser has not seen."""
        return self._length - self._parsed

    def begin_bulk(self, reader: _Reader) -> bytes:
        """Let ``reader`` have what comes from now on; returns what has come of the body."""
        begun, self.cycle.body = bytes(self.cycle.body), bytearray()
        self.flow.pause_reading()
        self.transport.set_protocol(reader)
        return begun

    def end_bulk(self) -> None:
        """Take the connection back after the last byte of the body. The parser, which waits for it, is replaced."""
        self.flow.pause_reading()
        self.transport.set_protocol(self)
        self.parser = httptools.HttpRequestParser(self)
        self.on_message_complete()
        self.flow.resume_reading()


def _announced(headers: list[tuple[bytes, bytes]]) -> int:
    """The length of a body; 0 when it is not known beforehand, or the client waits to be asked for it."""
    fields = dict(headers)
    length = fields.get(b"content-length", b"")
    if b"transfer-encoding" in fields or b"expect" in fields or not length.isdigit():
        return 0
    return int(length)


class _Taken:
    """See :class:`Bulk`."""

    _with_large_pieces = 0

    def __init__(self, server: BulkServer) -> None:
        self._server = server
        self._origin = 0

    def align(self, position: int) -> None:
        """See :class:`Bulk`."""
        self._origin = position

    async def pieces(self) -> AsyncGenerator[bytes | bytearray]:
        """See :class:`Bulk`."""
        server = self._server
        with self._piece_size() as size:
            reader = _Reader(server, size)
            begun = server.begin_bulk(reader)
            try:
                if begun:
                    yield begun
                while reader.left:
                    position = server.length - reader.left
                    yield await reader.next(size - (position - self._origin) % size)
            finally:
                reader.finish()

    @contextmanager
    def _piece_size(self) -> Iterator[int]:
        """Bytes of a piece of this body."""
        if self._server.length < _LONG or _Taken._with_large_pieces >= _LARGE_AT_ONCE:
            yield PIECE
            return
        _Taken._with_large_pieces += 1
        try:
            yield LARGE_PIECE
        finally:
            _Taken._with_large_pieces -= 1


class _Reader(asyncio.BufferedProtocol):
    """Fills two buffers in turn, each when it is asked for; in between the kernel's buffers hold the client up."""

    def __init__(self, server: BulkServer, size: int) -> None:
        """``size`` is that of a whole piece."""
        self._server = server
        self._size = size
        self._buffers = (aligned_buffer(size), aligned_buffer(size))
        self._turn = 0
        self._filled = self._wanted = 0
        self._full = asyncio.Event()
        self._discards = False
        #: Bytes of the body that have not been read.
        self.left = server.unparsed
        #: Whether the connection is gone.
        self.lost = False

    async def next(self, size: int) -> bytes | bytearray:
        """So many bytes, fewer at the end; a slow client's are waited for. Raises :class:`ClientDisconnected`."""
        self._turn ^= 1
        self._filled, self._wanted = 0, min(size, self.left)
        self._full.clear()
        if not self.lost:
            self._server.flow.resume_reading()
            await self._full.wait()
        if self.lost:
            raise ClientDisconnected
        buffer = self._buffers[self._turn]
        return buffer if self._filled == self._size else bytes(memoryview(buffer)[: self._filled])

    def finish(self) -> None:
        """Give the connection back, once the rest of the body is read."""
        if self.lost:
            return
        if not self.left:
            self._server.end_bulk()
            return
        self._discards = True
        self._filled, self._wanted = 0, self._size
        self._server.flow.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """What is still to be filled."""
        wanted = min(self._wanted, self._filled + self.left)
        return memoryview(self._buffers[self._turn])[self._filled : wanted]

    def buffer_updated(self, nbytes: int) -> None:
        """The kernel has filled so much of it."""
        self.left -= nbytes
        if self._discards:
            if not self.left:
                self._server.end_bulk()
            return
        self._filled += nbytes
        if self._filled == self._wanted:
            self._server.flow.pause_reading()
            self._full.set()

    def eof_received(self) -> None:
        """A body that ends early: the transport closes the connection."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits learns of it, and so does the server."""
        self.lost = True
        self._full.set()
        self._server.connection_lost(exc)

    def pause_writing(self) -> None:
        """For the server."""
        self._server.pause_writing()

    def resume_writing(self) -> None:
        """For the server."""
        self._server.resume_writing()
