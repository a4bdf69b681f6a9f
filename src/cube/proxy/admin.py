"""Questions to Envoy's admin interface on its unix socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import h11

_ANSWER_SECONDS = 2.0
_READ_BYTES = 64 * 1024


async def ask(socket: Path, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of a request; what changes something asks for ``POST``.

    Raises ``OSError`` or ``TimeoutError`` when nobody answers, ``h11.ProtocolError`` when it is no HTTP.
    """
    async with asyncio.timeout(_ANSWER_SECONDS):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            connection = h11.Connection(h11.CLIENT)
            request = h11.Request(method=method, target=path, headers=[("host", "admin"), ("connection", "close")])
            writer.write(connection.send(request) or b"")
            return await _answer(reader, connection)
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader, connection: h11.Connection) -> tuple[int, bytes]:
    status, body = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
            return status, bytes(body)


async def is_live(socket: Path) -> bool:
    """Whether Envoy has its configuration and its workers accept connections."""
    try:
        status, _ = await ask(socket, "/ready")
    except (OSError, TimeoutError, h11.ProtocolError):
        return False
    return status == 200
