"""The few pieces of ASGI that envd needs: types, header access, answers, bounded bodies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import orjson

from cube.model.errors import InvalidInput

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HeaderList = Iterable[tuple[bytes, bytes]]


class ClientDisconnected(Exception):
    """The client closed the connection before its request was complete."""


def header(scope: Scope, name: bytes) -> str:
    """First value of a header, or the empty string. ``name`` is lower case, as ASGI gives names."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return ""


async def respond(send: Send, status: int, body: bytes = b"", headers: HeaderList = ()) -> None:
    """Send a whole response; ``content-length`` is added unless the status forbids a body."""
    fields = list(headers)
    if status not in (204, 304):
        fields.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, status: int, value: object) -> None:
    """Send a JSON response."""
    await respond(send, status, orjson.dumps(value), [(b"content-type", b"application/json")])


async def body_chunks(receive: Receive) -> AsyncGenerator[bytes]:
    """The request body as it arrives, empty chunks left out; raises :class:`ClientDisconnected`."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        if chunk := message.get("body", b""):
            yield chunk
        more = message.get("more_body", False)


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole request body; raises ``InvalidInput`` beyond ``limit`` bytes and :class:`ClientDisconnected`."""
    body = bytearray()
    async for chunk in body_chunks(receive):
        body += chunk
        if len(body) > limit:
            raise InvalidInput(f"the request body is longer than {limit} bytes")
    return bytes(body)
