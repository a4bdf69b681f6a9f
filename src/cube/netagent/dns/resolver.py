"""The resolver of a node: one pair of sockets for all sandboxes.

The rules give questions to any gateway's port 53 the resolver's port, and answers the other way round, so who asks is
known by the address. An answer leaves after the addresses in it may be reached, never before. Nothing else opens
addresses: what a sandbox hears from a server that it asks by itself means nothing to its policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

import dns.rcode

from cube.model.errors import CubeError, HostError
from cube.netagent.compiled import CompiledPolicy
from cube.netagent.dns.messages import LONGEST_QUESTION, Unusable, read_question
from cube.netagent.dns.upstream import NoAnswer, Servers

_log = logging.getLogger(__name__)

#: Questions of one sandbox that are being answered, and its connections; what exceeds them is dropped.
_MOST_AT_ONCE: Final = 64
_MOST_CONNECTIONS: Final = 8
#: Seconds that a connection may say nothing.
_IDLE_S: Final = 10.0
#: Ports that are tried until one is free for both protocols.
_ATTEMPTS: Final = 20
_RECEIVE_BYTES: Final = 1 << 20

#: Makes the addresses of a name reachable for so many seconds, as the sandbox's policy says of the name.
Learn = Callable[[IPv4Address, str, Sequence[IPv4Address], int], Awaitable[None]]
PolicyOf = Callable[[IPv4Address], CompiledPolicy | None]


@dataclass(slots=True)
class _Load:
    """What the sandboxes keep us busy with."""

    questions: Counter[IPv4Address]
    connections: Counter[IPv4Address]


class Resolver:
    """Answers sandboxes. Use from one event loop."""

    def __init__(self, servers: Servers, policy_of: PolicyOf, learn: Learn) -> None:
        self._servers = servers
        self._policy_of = policy_of
        self._learn = learn
        self._load = _Load(Counter(), Counter())
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listen, and return the port, the same for UDP and TCP. ``HostError`` when there is none.

        It listens at all addresses, for gateways come and go; the rules keep everybody but sandboxes out, and who is
        no sandbox is not answered.
        """
        udp, tcp = _sockets()
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        self._server = await asyncio.start_server(self._connected, sock=tcp, limit=2 * LONGEST_QUESTION)
        return int(udp.getsockname()[1])

    async def close(self) -> None:
        """Stop; questions under way are not answered."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def answer(self, sandbox: IPv4Address, data: bytes, *, stream: bool) -> bytes | None:
        """What to tell a sandbox that has sent ``data``; ``None`` for nothing."""
        policy = self._policy_of(sandbox)
        if policy is None:
            return None
        try:
            question = read_question(data)
        except Unusable as error:
            _log.debug("%s has sent no usable question: %s", sandbox, error)
            return None
        if not policy.answers(question.name):
            return question.refusal(dns.rcode.REFUSED, "the network policy does not speak of this name")
        try:
            answer = await self._servers.ask(question, policy.dns_servers, whole=stream)
            if answer.addresses:
                await self._learn(sandbox, question.name, answer.addresses, answer.seconds)
        except (NoAnswer, CubeError):
            return question.refusal(dns.rcode.SERVFAIL)
        told = answer.to(question)
        return question.truncated() if not stream and len(told) > question.datagram_bytes else told

    def received(self, data: bytes, peer: tuple[str, int]) -> None:
        """A datagram has come."""
        sandbox = IPv4Address(peer[0])
        if self._load.questions[sandbox] >= _MOST_AT_ONCE:
            return
        self._load.questions[sandbox] += 1
        task = asyncio.create_task(self._reply(sandbox, data, peer))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._replied(sandbox, task))

    async def _reply(self, sandbox: IPv4Address, data: bytes, peer: tuple[str, int]) -> None:
        told = await self.answer(sandbox, data, stream=False)
        if told is not None and self._transport is not None:
            self._transport.sendto(told, peer)

    def _replied(self, sandbox: IPv4Address, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        _less(self._load.questions, sandbox)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a question of %s could not be answered", sandbox, exc_info=error)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sandbox = IPv4Address(writer.get_extra_info("peername")[0])
        task = asyncio.current_task()
        if task is None or self._load.connections[sandbox] >= _MOST_CONNECTIONS:
            writer.close()
            return
        self._load.connections[sandbox] += 1
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                while await self._serve_one(sandbox, reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            _less(self._load.connections, sandbox)
            writer.close()

    async def _serve_one(
        self, sandbox: IPv4Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one question of a connection; ``False`` when there is to be none after it."""
        async with asyncio.timeout(_IDLE_S):
            length = int.from_bytes(await reader.readexactly(2))
            if length > LONGEST_QUESTION:
                return False
            data = await reader.readexactly(length)
        told = await self.answer(sandbox, data, stream=True)
        if told is None:
            return False
        writer.write(len(told).to_bytes(2) + told)
        async with asyncio.timeout(_IDLE_S):
            await writer.drain()
        return True


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._resolver.received(data, addr)


def _less(counter: Counter[IPv4Address], key: IPv4Address) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]


def _sockets() -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket with the same port."""
    for _ in range(_ATTEMPTS):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
            udp.bind(("0.0.0.0", 0))  # noqa: S104  see Resolver.start
            tcp.bind(("0.0.0.0", udp.getsockname()[1]))  # noqa: S104
            tcp.listen(256)
        except OSError:
            udp.close()
            tcp.close()
        else:
            return udp, tcp
    raise HostError("the resolver for sandboxes found no free port")
