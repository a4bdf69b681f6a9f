"""The conversation with the launcher process: requests, and answers in any order."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count

from cube.cubelet.runtime.container import datagrams
from cube.cubelet.runtime.container.datagrams import Datagram
from cube.cubelet.runtime.container.plan import ran_out_of_room
from cube.cubelet.runtime.container.steps import Step
from cube.cubelet.runtime.guest.wire import Failure, Kind, WireError
from cube.model.errors import HostError, StorageFull

#: Seconds within which the launcher answers a request. It takes milliseconds.
ANSWER_SECONDS = 10.0


class Channel:
    """Requests to the launcher and their answers, matched by id."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.closed = False
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._ids = count(1)
        self._pending: dict[int, asyncio.Future[Datagram]] = {}
        self._unsent: deque[tuple[Kind, int, bytes, Sequence[int]]] = deque()
        self._loop.add_reader(sock, self._receive)

    def request(self, kind: Kind, body: bytes, fds: Sequence[int]) -> asyncio.Future[Datagram]:
        """Send a request; the descriptors must stay open until the answer is there."""
        answer: asyncio.Future[Datagram] = self._loop.create_future()
        request_id = next(self._ids) & 0xFFFF_FFFF
        self._pending[request_id] = answer
        self._unsent.append((kind, request_id, body, fds))
        self._send()
        return answer

    async def settled(self, answer: asyncio.Future[Datagram]) -> bool:
        """Wait until an answer is there, cancelled or not; returns whether the waiting task was cancelled.

        A launcher that does not answer in time is given up, with all of its requests.
        """
        cancelled = False
        deadline = self._loop.time() + ANSWER_SECONDS
        while not answer.done():
            try:
                await asyncio.wait((answer,), timeout=deadline - self._loop.time())
            except asyncio.CancelledError:
                cancelled = True
            if self._loop.time() > deadline:
                self.close()
        return cancelled

    def close(self) -> None:
        """Let go of the launcher; what waits for it fails with ``HostError``. May be called twice."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._unsent.clear()
        for request_id in list(self._pending):
            self._fail(request_id, "the launcher has ended or does not answer; try again")

    def _fail(self, request_id: int, message: str) -> None:
        answer = self._pending.pop(request_id)
        answer.set_exception(HostError(message))

    def _send(self) -> None:
        while self._unsent:
            request_id = self._unsent[0][1]
            try:
                datagrams.send(self._sock, *self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._send)
                return
            except (OSError, ValueError) as error:
                # Of this request alone, such as a closed descriptor; that the launcher is gone shows in _receive.
                self._fail(request_id, f"a request cannot be sent to the launcher: {error}")
            self._unsent.popleft()
        self._loop.remove_writer(self._sock)

    def _receive(self) -> None:
        try:
            message = datagrams.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, WireError):
            message = None
        if message is None:
            self.close()
        elif message.id in self._pending:
            self._pending.pop(message.id).set_result(message)
        else:
            message.close()


def refused(message: Datagram, doing: Callable[[int], str], steps: Sequence[Step] = ()) -> HostError | StorageFull:
    """The error for an answer that is not the one hoped for; ``doing`` puts the stage of a failure into words."""
    message.close()
    if message.kind != Kind.ERROR:
        return HostError(f"cube-init answered with a message of unexpected kind {message.kind:#x}")
    failure = Failure.decode(message.body)
    where = f" ({failure.detail})" if failure.detail else ""
    sentence = f"{doing(failure.stage)} failed: {os.strerror(failure.errno)}{where}"
    return StorageFull(sentence) if ran_out_of_room(steps, failure) else HostError(sentence)
