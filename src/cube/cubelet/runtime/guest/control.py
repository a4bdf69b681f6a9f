"""The connection to process 1 of a sandbox: requests and answers, matched by number.

The other end is as hostile as the sandbox: whatever breaks the protocol ends the connection, an answer that nobody
waits for is thrown away with its handles, and nothing is kept without a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol, TypeVar

import structlog

from cube.cubelet.runtime.guest import wire
from cube.cubelet.runtime.guest.link import Inotify, Link, Message
from cube.cubelet.runtime.guest.wire import Failure, Kind, WireError
from cube.model.errors import InvalidInput, SandboxNotRunning, Unavailable

T = TypeVar("T")

_log = structlog.get_logger(__name__)

#: Seconds that a request about one thing may take.
REQUEST_SECONDS = 30.0
#: Bytes of answers to one request that may wait until they are taken; who takes them keeps up with far less.
ANSWERS_MAX = 32 * 1024 * 1024


class RequestFailed(Exception):
    """Process 1 answered with ``ERROR``; the caller, who knows what was asked, turns it into the tree of errors."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(os.strerror(failure.errno))
        self.failure = failure


class Receiver(Protocol):
    """Takes what is answered to one request."""

    @property
    def outlasts_pauses(self) -> bool:
        """Whether the answer may come after a pause in which there is no connection."""
        ...

    def resume(self, request_id: int) -> None:
        """After such a pause: say again what is waited for."""
        ...

    def receive(self, message: Message) -> None:
        """An answer; take its handles or they are closed. Raises ``WireError`` when it makes no sense."""
        ...

    def lost(self) -> None:
        """The connection has ended; nothing more will come."""
        ...


class _Answers:
    """Answers to one request in the order in which they came; ``None`` once the connection is lost."""

    outlasts_pauses = False

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._held = 0

    def receive(self, message: Message) -> None:
        self._held += len(message.body)
        if self._held > ANSWERS_MAX:
            raise WireError(f"more than {ANSWERS_MAX >> 20} MiB of answers to one request")
        self.queue.put_nowait(Message(message.kind, message.id, message.body, message.take_handles()))

    async def take(self) -> Message | None:
        message = await self.queue.get()
        if message is not None:
            self._held -= len(message.body)
        return message

    def lost(self) -> None:
        self.queue.put_nowait(None)

    def resume(self, request_id: int) -> None:
        raise NotImplementedError

    def discard(self) -> None:
        while not self.queue.empty():
            message = self.queue.get_nowait()
            if message is not None:
                message.close()


class ControlConnection:
    """One connection to process 1 over a link, from now on owned by this object. Made and used on one event loop.

    ``closed`` is set when the connection has ended, whichever side did it: without :meth:`close`, the sandbox died.
    """

    def __init__(self, link: Link, sandbox_id: str) -> None:
        self.sandbox_id = sandbox_id
        self.closed = asyncio.Event()
        self._link = link
        self._state = "dead"
        self._suspended = False
        self._receivers: dict[int, Receiver] = {}
        self._last_id = 0
        self._loop = asyncio.get_running_loop()
        link.listen(self)

    def add(self, receiver: Receiver) -> int:
        """Register a receiver and return the number for its request. Raises ``SandboxNotRunning``."""
        self._check_running()
        while True:
            self._last_id = self._last_id % self._link.max_id + 1
            if self._last_id not in self._receivers:
                self._receivers[self._last_id] = receiver
                return self._last_id

    def remove(self, request_id: int) -> None:
        """Forget a receiver; what still comes for it is thrown away."""
        self._receivers.pop(request_id, None)

    def send(self, kind: Kind, request_id: int, body: bytes = b"", attached: Sequence[Inotify] = ()) -> None:
        """Send a request, or keep it until there is room.

        Raises ``SandboxNotRunning`` when the connection has ended, ``Unavailable`` when too much is waiting or the host
        has no descriptor or memory left for it, ``InvalidInput`` when it is too long.
        """
        self._check_running()
        if len(body) > wire.BODY_MAX:
            raise InvalidInput(f"the request is longer than {wire.BODY_MAX >> 20} MiB")
        try:
            self._link.send(kind, request_id, body, attached)
        except ConnectionError:
            self.close()
            raise self.not_running() from None

    async def request(
        self, kind: Kind, body: bytes = b"", *, attached: Sequence[Inotify] = (), seconds: float = REQUEST_SECONDS
    ) -> Message:
        """Send a request that has one answer and wait for it; the caller owns its handles.

        Raises :class:`RequestFailed`, ``SandboxNotRunning``, and ``Unavailable`` after ``seconds``.
        """
        async with contextlib.aclosing(self.stream(kind, body, attached=attached, seconds=seconds)) as answers:
            return await anext(answers)

    async def stream(
        self, kind: Kind, body: bytes = b"", *, attached: Sequence[Inotify] = (), seconds: float
    ) -> AsyncGenerator[Message, None]:
        """Send a request and yield its answers until the caller has had enough; raises like :meth:`request`."""
        answers = _Answers()
        request_id = self.add(answers)
        deadline = self._loop.time() + seconds
        try:
            self.send(kind, request_id, body, attached)
            while True:
                yield await self._next(answers, deadline)
        finally:
            self.remove(request_id)
            answers.discard()

    def decode(self, message: Message, kind: Kind, parse: Callable[[Message], T]) -> T:
        """What ``parse`` makes of a message of that kind; what it does not take is closed.

        When the message breaks the protocol, the connection ends and ``SandboxNotRunning`` is raised.
        """
        try:
            _check_kind(message, kind)
            return parse(message)
        except WireError as error:
            self.broken(error)
            raise self.not_running() from None
        finally:
            message.close()

    def not_running(self) -> SandboxNotRunning:
        """The error for whoever asks a sandbox that has died, or that is paused."""
        return SandboxNotRunning(self.sandbox_id, self._state)

    def _check_running(self) -> None:
        if self.closed.is_set() or self._suspended:
            raise self.not_running()

    def suspend(self) -> None:
        """Ask nothing until :meth:`resume`. Requests under way fail; who waits for the end of a process waits on."""
        self._suspended, self._state = True, "paused"
        leaving = {number: one for number, one in self._receivers.items() if not one.outlasts_pauses}
        for number, receiver in leaving.items():
            del self._receivers[number]
            receiver.lost()

    def resume(self) -> None:
        """Go on asking."""
        self._suspended, self._state = False, "dead"
        for number, receiver in list(self._receivers.items()):
            receiver.resume(number)

    def close(self) -> None:
        """End the connection; the sandbox goes on running. May be called twice."""
        if self.closed.is_set():
            return
        self.closed.set()
        self._link.close()
        receivers, self._receivers = self._receivers, {}
        for receiver in receivers.values():
            receiver.lost()

    async def _next(self, answers: _Answers, deadline: float) -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                message = await answers.take()
        except TimeoutError:
            raise Unavailable(f"sandbox {self.sandbox_id!r} did not answer in time; try again") from None
        if message is None:
            raise self.not_running()
        if message.kind == Kind.ERROR:
            raise RequestFailed(self.decode(message, Kind.ERROR, _failure))
        return message

    # -- told by the link ----------------------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        try:
            receiver = self._receivers.get(message.id)
            if receiver is not None:
                receiver.receive(message)
        except WireError as error:
            self.broken(error)
        finally:
            message.close()

    def unsendable(self, request_id: int) -> None:
        receiver = self._receivers.pop(request_id, None)
        if receiver is not None:
            receiver.lost()

    def lost(self, reason: WireError | OSError | None) -> None:
        if reason is None:
            self.close()
        else:
            self.broken(reason)

    def broken(self, error: Exception) -> None:
        """End the connection because the other side broke the protocol."""
        _log.warning("control connection broken", sandbox_id=self.sandbox_id, reason=str(error))
        self.close()


def _check_kind(message: Message, kind: Kind) -> None:
    if message.kind != kind:
        raise WireError(f"an answer of kind {message.kind:#x} instead of {kind.name}")


def _failure(message: Message) -> Failure:
    return Failure.decode(message.body)
