"""The sockets of the network agent, in `cube up` and by itself."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from cube.cli.http_server import http_server
from cube.model.errors import Conflict, HostError
from cube.netagent.networks import fd_server
from cube.netagent.networks.app import NetworkApp
from cube.netagent.networks.debug import debug_app
from cube.netagent.networks.service import Networks
from cube.proxy import sockets
from cube.settings import Settings

_FOR_ROOT = 0o600


@contextmanager
def only_agent(settings: Settings) -> Iterator[None]:
    """Hold the lock of the instance's network; raises ``Conflict`` when another process has it."""
    directory = settings.network_socket.parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"the network of instance {settings.instance!r} has an agent already") from None
        yield


@asynccontextmanager
async def network_doors(settings: Settings, networks: Networks, health: str = "") -> AsyncIterator[None]:
    """Serve the agent during the block: on its socket, the one for descriptors, and where ``debug_listen`` says.

    ``health`` is an ``address:port`` for the application too, for whoever looks after the node.
    """
    app = NetworkApp(networks)
    async with AsyncExitStack() as stack:
        agent = stack.enter_context(sockets.listening(settings.network_socket, os.geteuid(), _FOR_ROOT))
        await stack.enter_async_context(http_server(app, agent))
        taps = stack.enter_context(sockets.listening(settings.network_fd_socket, os.geteuid(), _FOR_ROOT))
        await stack.enter_async_context(fd_server.serving(taps, networks))
        for served, where in ((app.looks, health), (debug_app, settings.debug_listen)):
            if where:
                await _serve_tcp(stack, served, where)
        yield


async def _serve_tcp(stack: AsyncExitStack, app: Any, where: str) -> None:
    address, _, port = where.rpartition(":")
    try:
        listener = socket.create_server((address, int(port)))
    except (OSError, OverflowError) as error:
        raise HostError(f"cannot listen on {where}: {error}") from error
    stack.callback(listener.close)
    await stack.enter_async_context(http_server(app, listener))
