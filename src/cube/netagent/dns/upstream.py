"""Questions to the servers that know: each from a port of its own, under a number that nobody can guess."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from cube.netagent.dns.messages import Answer, Question, Unusable, read_answer

_log = logging.getLogger(__name__)

#: Seconds that one server gets, and how often all of them are asked.
_PATIENCE: Final = 2.0
_ROUNDS: Final = 2
_PORT: Final = 53
_LONGEST_ANSWER: Final = 65535


class NoAnswer(Exception):
    """No server has answered."""


class _Exchange(asyncio.DatagramProtocol):
    """One question over UDP; whatever is not its answer is passed over."""

    def __init__(self, question: Question, number: int) -> None:
        self._question = question
        self._number = number
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str | int, int]) -> None:
        """A datagram of the server; the socket is connected, so it is from nobody else."""
        with contextlib.suppress(Unusable):
            answer = read_answer(data, self._question, self._number)
            if not self.answer.done():
                self.answer.set_result(answer)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there."""
        if not self.answer.done():
            self.answer.set_exception(exc)


class Servers:
    """The servers of a node."""

    def __init__(self, configured: Sequence[str] = (), *, resolv_conf: Path = Path("/etc/resolv.conf")) -> None:
        """Without ``configured`` ones those of ``resolv_conf`` are asked, which is read again when it changes."""
        self._configured = tuple(configured)
        self._resolv_conf = resolv_conf
        self._read: tuple[int, tuple[str, ...]] = (0, ())

    def addresses(self) -> tuple[str, ...]:
        """Whom to ask, in order."""
        return self._configured or self._of_host()

    async def ask(self, question: Question, servers: Sequence[str], *, whole: bool) -> Answer:
        """The answer of the first server that gives one, over TCP where it must be ``whole``. Raises ``NoAnswer``."""
        for server in tuple(servers or self.addresses()) * _ROUNDS:
            try:
                async with asyncio.timeout(_PATIENCE):
                    answer = await _ask_udp(question, server)
                    return await _ask_tcp(question, server) if answer.truncated and whole else answer
            except (OSError, TimeoutError, Unusable, asyncio.IncompleteReadError) as error:
                _log.debug("no answer from the name server %s: %r", server, error)
        raise NoAnswer

    def _of_host(self) -> tuple[str, ...]:
        try:
            changed = self._resolv_conf.stat().st_mtime_ns
            if changed != self._read[0]:
                self._read = changed, parse_resolv_conf(self._resolv_conf.read_text(errors="replace"))
        except OSError as error:
            _log.warning("cannot read %s: %s", self._resolv_conf, error)
        return self._read[1]


def parse_resolv_conf(text: str) -> tuple[str, ...]:
    """The IPv4 servers that a resolv.conf(5) names."""
    lines = (line.split() for line in text.splitlines())
    named = [words[1] for words in lines if len(words) >= 2 and words[0] == "nameserver"]
    return tuple(server for server in named if _is_ipv4(server))


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


async def _ask_udp(question: Question, server: str) -> Answer:
    number = secrets.randbelow(1 << 16)
    loop = asyncio.get_running_loop()
    transport, exchange = await loop.create_datagram_endpoint(
        lambda: _Exchange(question, number), remote_addr=(server, _PORT)
    )
    try:
        transport.sendto(question.query(number))
        return await exchange.answer
    finally:
        transport.close()


async def _ask_tcp(question: Question, server: str) -> Answer:
    number = secrets.randbelow(1 << 16)
    reader, writer = await asyncio.open_connection(server, _PORT, limit=_LONGEST_ANSWER)
    try:
        query = question.query(number)
        writer.write(len(query).to_bytes(2) + query)
        await writer.drain()
        length = int.from_bytes(await reader.readexactly(2))
        return read_answer(await reader.readexactly(length), question, number)
    finally:
        writer.close()
