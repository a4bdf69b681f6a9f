"""Hands descriptors to other processes of the machine: a JSON request on a unix socket, an answer with the descriptor.

``{"name": "<interface>", "sandboxId": "<id>"}`` is answered ``{"errCode": "0", "errMsg": "Success", "ifindex": 7}``
with the descriptor beside it: a TAP's, or that of a network namespace. 1001 is a request that nobody understands, 1002
one that cannot be carried out. ``ifindex`` is 0 where it is not known, as with older agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import orjson

from cube.model.errors import CubeError, HostError, InvalidInput, SandboxNotFound
from cube.netagent.networks.tap_files import TapFile

_log = logging.getLogger(__name__)

LONGEST_REQUEST: Final = 1024
_LONGEST_ANSWER: Final = 4096
SUCCESS: Final = "0"
UNPARSABLE: Final = "1001"
FAILED: Final = "1002"
#: Seconds that a client gets to say what it wants, and to take the answer.
_PATIENCE: Final = 10.0


class Provider(Protocol):
    """Has the descriptors."""

    async def file(self, sandbox_id: str, name: str) -> TapFile:
        """That of a sandbox; ``CubeError`` when there is none. It stays the provider's."""
        ...


@asynccontextmanager
async def serving(listener: socket.socket, provider: Provider) -> AsyncIterator[None]:
    """Serve on a listening socket during the block; clients that are being answered at its end are cut off."""
    listener.setblocking(False)
    clients: set[asyncio.Task[None]] = set()
    server = asyncio.create_task(_accept(listener, provider, clients), name="descriptors")
    try:
        yield
    finally:
        for task in (server, *clients):
            task.cancel()
        await asyncio.gather(server, *clients, return_exceptions=True)


async def _accept(listener: socket.socket, provider: Provider, clients: set[asyncio.Task[None]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        client, _ = await loop.sock_accept(listener)
        task = asyncio.create_task(answer(client, provider))
        clients.add(task)
        task.add_done_callback(clients.discard)


async def answer(client: socket.socket, provider: Provider) -> None:
    """Carry out the one request of a client, and close the connection."""
    with client:
        client.setblocking(False)
        try:
            async with asyncio.timeout(_PATIENCE):
                await _exchange(client, provider)
        except (OSError, TimeoutError) as error:
            _log.info("a client of the descriptor server has gone: %s", error)


async def _exchange(client: socket.socket, provider: Provider) -> None:
    loop = asyncio.get_running_loop()
    try:
        name, sandbox_id = _parsed(await loop.sock_recv(client, LONGEST_REQUEST + 1))
    except InvalidInput as error:
        await loop.sock_sendall(client, _answer(UNPARSABLE, error.message))
        return
    try:
        found = await provider.file(sandbox_id, name)
    except CubeError as error:
        await loop.sock_sendall(client, _answer(FAILED, error.message))
        return
    # The answer is small and the first on its connection: it fits into the buffer.
    socket.send_fds(client, [_answer(SUCCESS, "Success", ifindex=found.interface_index)], [found.descriptor])


def _parsed(request: bytes) -> tuple[str, str]:
    if len(request) > LONGEST_REQUEST:
        raise InvalidInput(f"a request has at most {LONGEST_REQUEST} bytes")
    try:
        document = orjson.loads(request)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the request is not JSON: {error}") from error
    match document:
        case {"name": str(name), "sandboxId": str(sandbox_id)} if name and sandbox_id:
            return name, sandbox_id
        case _:
            raise InvalidInput('the request must be {"name": "<interface>", "sandboxId": "<id>"}')


def _answer(code: str, message: str, **more: int) -> bytes:
    return orjson.dumps({"errCode": code, "errMsg": message, **more})


def request(connection: socket.socket, sandbox_id: str, name: str) -> tuple[int, int]:
    """Ask on a blocking connection: the descriptor, which is the caller's, and the interface's number.

    ``SandboxNotFound`` when there is no such network, ``HostError`` with what the agent says.
    """
    connection.sendall(orjson.dumps({"name": name, "sandboxId": sandbox_id}))
    data, descriptors, _, _ = socket.recv_fds(connection, _LONGEST_ANSWER, 1)
    try:
        document = orjson.loads(data)
        _require_success(sandbox_id, document, descriptors)
        return descriptors[0], int(document.get("ifindex", 0)) or _looked_up(name)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _require_success(sandbox_id: str, document: Any, descriptors: list[int]) -> None:
    message = str(document.get("errMsg", ""))
    if message == SandboxNotFound(sandbox_id).message:
        raise SandboxNotFound(sandbox_id)
    if document["errCode"] != SUCCESS or not descriptors:
        raise HostError(f"the network agent refuses ({document.get('errCode')}): {message}")


def _looked_up(name: str) -> int:
    """The number of an interface, for answers of agents that do not tell it."""
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(name)
    raise HostError(f"there is no interface {name}")
