"""Accepting connections as structured tasks: all of them end with the task that accepts."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)
_PAUSE_SECONDS = 0.1

Converse = Callable[[socket.socket], Awaitable[None]]


async def serve(listener: socket.socket, converse: Converse) -> None:
    """Run ``converse`` for every connection until cancelled. The listener must not block; it stays with the caller."""
    async with asyncio.TaskGroup() as connections:
        while True:
            peer = await _accept(listener)
            connections.create_task(_guarded(peer, converse))


async def _accept(listener: socket.socket) -> socket.socket:
    while True:
        try:
            return (await asyncio.get_running_loop().sock_accept(listener))[0]
        except OSError as error:
            # Out of descriptors or memory: the next moment may be better, giving up never is.
            _log.error("a connection could not be accepted: %s", error)
            await asyncio.sleep(_PAUSE_SECONDS)


async def _guarded(peer: socket.socket, converse: Converse) -> None:
    with peer:
        try:
            await converse(peer)
        except OSError as error:
            _log.debug("connection ended: %s", error)
        except Exception:  # noqa: BLE001  one conversation that fails must not end the others
            _log.exception("connection ended by an error")
