"""Answers the proxy's question for a sandbox that has no entry in the routing table: ``GET /<sandboxID>``.

200 with a record of :func:`cube.proxy.routes.encode`, 403 for a sandbox that a request without its token may not wake,
404 for an id that never was, 502 for a sandbox that takes no traffic; the bodies of the last three are the sentences
that clients get to see. Only the proxy can connect.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from http import HTTPStatus

import h11

from cube.model.errors import CubeError, PermissionDenied
from cube.model.ids import is_sandbox_id
from cube.proxy import connections
from cube.proxy.routes import Directory, Route, encode

_log = logging.getLogger(__name__)
_NOT_FOUND = b"The sandbox was not found"
_READ_BYTES = 64 * 1024
_TOKEN_HEADER = b"e2b-traffic-access-token"


async def serve(listener: socket.socket, directory: Directory) -> None:
    """Serve connections until cancelled."""

    async def converse(peer: socket.socket) -> None:
        try:
            await _requests(peer, directory)
        except h11.ProtocolError as error:
            _log.warning("a lookup could not be read: %s", error)

    await connections.serve(listener, converse)


async def _requests(peer: socket.socket, directory: Directory) -> None:
    loop = asyncio.get_running_loop()
    connection = h11.Connection(h11.SERVER)
    while (request := await _next_request(peer, connection)) is not None:
        sandbox_id = request.target.decode("ascii", "replace").removeprefix("/")
        status, body = await answer(directory, sandbox_id, _token(request))
        headers = [("content-length", str(len(body)))]
        head = connection.send(h11.Response(status_code=status, headers=headers))
        data = connection.send(h11.Data(data=body))
        end = connection.send(h11.EndOfMessage())
        await loop.sock_sendall(peer, b"".join(part for part in (head, data, end) if part))
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return
        connection.start_next_cycle()


async def _next_request(peer: socket.socket, connection: h11.Connection) -> h11.Request | None:
    """The next complete request, ``None`` when the peer is done."""
    request: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await asyncio.get_running_loop().sock_recv(peer, _READ_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed):
            return None


def _token(request: h11.Request) -> str:
    return next((value.decode("latin-1") for name, value in request.headers if name == _TOKEN_HEADER), "")


async def answer(directory: Directory, sandbox_id: str, token: str = "") -> tuple[int, bytes]:
    """Status and body for one id; a directory that fails is a 503, and nothing is routed."""
    if not is_sandbox_id(sandbox_id):
        return HTTPStatus.NOT_FOUND, _NOT_FOUND
    try:
        found = await directory.lookup(sandbox_id, token)
    except PermissionDenied as error:
        return HTTPStatus.FORBIDDEN, error.message.encode()
    except CubeError as error:
        _log.warning("lookup of %s failed: %s", sandbox_id, error)
        return HTTPStatus.SERVICE_UNAVAILABLE, b""
    if isinstance(found, Route):
        return HTTPStatus.OK, encode(found)
    return (HTTPStatus.NOT_FOUND if found is None else HTTPStatus.BAD_GATEWAY), _NOT_FOUND
