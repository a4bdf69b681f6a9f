"""The connection to process 1 of a sandbox: requests and answers, matched by number.

The other end is as hostile as the sandbox: whatever breaks the protocol ends the connection, an answer that nobody
waits for is thrown away with its descriptors, and nothing is kept without a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol, TypeVar

import structlog

from cube.cubelet.runtime.container import wire
from cube.cubelet.runtime.container.wire import Failure, Kind, Message, WireError
from cube.model.errors import InvalidInput, SandboxNotRunning, Unavailable

T = TypeVar("T")

_log = structlog.get_logger(__name__)

#: Seconds that a request about one thing may take.
REQUEST_SECONDS = 30.0
#: Messages taken from one connection before the others get their turn.
_MESSAGES_AT_ONCE = 16
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
#: Requests that may wait for room in the socket.
_MAX_UNSENT = 1024


class RequestFailed(Exception):
    """Process 1 answered with ``ERROR``; the caller, who knows what was asked, turns it into the tree of errors."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(os.strerror(failure.errno))
        self.failure = failure


class Receiver(Protocol):
    """Takes what is answered to one request."""

    def receive(self, message: Message) -> None:
        """An answer; take its descriptors or they are closed. Raises ``WireError`` when it makes no sense."""
        ...

    def lost(self) -> None:
        """The connection has ended; nothing more will come."""
        ...


class _Answers:
    """Answers to one request in the order in which they came; ``None`` once the connection is lost."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Message | None] = asyncio.Queue()

    def receive(self, message: Message) -> None:
        self.queue.put_nowait(Message(message.kind, message.id, message.body, message.take_fds(len(message.fds))))

    def lost(self) -> None:
        self.queue.put_nowait(None)

    def discard(self) -> None:
        while not self.queue.empty():
            message = self.queue.get_nowait()
            if message is not None:
                message.close()


class ControlConnection:
    """One control socket, from now on owned by this object. Made and used on one event loop.

    ``closed`` is set when the connection has ended, whichever side did it: without :meth:`close`, the sandbox died.
    """

    def __init__(self, control: socket.socket, sandbox_id: str) -> None:
        self.sandbox_id = sandbox_id
        self.closed = asyncio.Event()
        self._socket = control
        self._receivers: dict[int, Receiver] = {}
        self._unsent: deque[tuple[int, int, bytes, list[int]]] = deque()
        self._last_id = 0
        self._loop = asyncio.get_running_loop()
        control.setblocking(False)
        self._loop.add_reader(control, self._read)

    def add(self, receiver: Receiver) -> int:
        """Register a receiver and return the number for its request. Raises ``SandboxNotRunning``."""
        if self.closed.is_set():
            raise self.not_running()
        while True:
            self._last_id = self._last_id % 0xFFFF_FFFF + 1
            if self._last_id not in self._receivers:
                self._receivers[self._last_id] = receiver
                return self._last_id

    def remove(self, request_id: int) -> None:
        """Forget a receiver; what still comes for it is thrown away."""
        self._receivers.pop(request_id, None)

    def send(self, kind: Kind, request_id: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a request, or keep it until the socket has room. The descriptors stay the caller's.

        Raises ``SandboxNotRunning`` when the connection has ended, ``Unavailable`` when too much is waiting or the host
        has no descriptor or memory left for it, ``InvalidInput`` when it is too long.
        """
        if self.closed.is_set():
            raise self.not_running()
        if len(body) > wire.BODY_MAX:
            raise InvalidInput(f"the request is longer than {wire.BODY_MAX >> 20} MiB")
        if self._unsent or not self._try_send(kind, request_id, body, fds):
            self._keep(kind, request_id, body, fds)

    async def request(
        self, kind: Kind, body: bytes = b"", *, fds: Sequence[int] = (), seconds: float = REQUEST_SECONDS
    ) -> Message:
        """Send a request that has one answer and wait for it; the caller owns its descriptors.

        Raises :class:`RequestFailed`, ``SandboxNotRunning``, and ``Unavailable`` after ``seconds``.
        """
        async with contextlib.aclosing(self.stream(kind, body, fds=fds, seconds=seconds)) as answers:
            return await anext(answers)

    async def stream(
        self, kind: Kind, body: bytes = b"", *, fds: Sequence[int] = (), seconds: float
    ) -> AsyncGenerator[Message, None]:
        """Send a request and yield its answers until the caller has had enough; raises like :meth:`request`."""
        answers = _Answers()
        request_id = self.add(answers)
        deadline = self._loop.time() + seconds
        try:
            self.send(kind, request_id, body, fds)
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
        """The error for whoever asks a sandbox that has died."""
        return SandboxNotRunning(self.sandbox_id, "dead")

    def close(self) -> None:
        """End the connection; the sandbox goes on running. May be called twice."""
        if self.closed.is_set():
            return
        self.closed.set()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        while self._unsent:
            _close_all(self._unsent.popleft()[3])
        receivers, self._receivers = self._receivers, {}
        for receiver in receivers.values():
            receiver.lost()

    async def _next(self, answers: _Answers, deadline: float) -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                message = await answers.queue.get()
        except TimeoutError:
            raise Unavailable(f"sandbox {self.sandbox_id!r} did not answer in time; try again") from None
        if message is None:
            raise self.not_running()
        if message.kind == Kind.ERROR:
            raise RequestFailed(self.decode(message, Kind.ERROR, _failure))
        return message

    def _try_send(self, kind: int, request_id: int, body: bytes, fds: Sequence[int]) -> bool:
        try:
            wire.send(self._socket, kind, request_id, body, fds)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _GONE:
                self.close()
                raise self.not_running() from None
            raise Unavailable(f"the host cannot pass on the request: {error.strerror}; try again") from error
        return True

    def _keep(self, kind: int, request_id: int, body: bytes, fds: Sequence[int]) -> None:
        if len(self._unsent) >= _MAX_UNSENT:
            raise Unavailable(f"sandbox {self.sandbox_id!r} is busy; try again")
        if not self._unsent:
            self._loop.add_writer(self._socket, self._write)
        self._unsent.append((kind, request_id, body, [os.dup(fd) for fd in fds]))

    def _write(self) -> None:
        try:
            while self._unsent and self._try_send(*self._unsent[0]):
                _close_all(self._unsent.popleft()[3])
        except SandboxNotRunning:
            return  # close() has told whoever waits
        except Unavailable:
            self._give_up_first()
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _give_up_first(self) -> None:
        _, request_id, _, fds = self._unsent.popleft()
        _close_all(fds)
        receiver = self._receivers.pop(request_id, None)
        if receiver is not None:
            receiver.lost()

    def _read(self) -> None:
        for _ in range(_MESSAGES_AT_ONCE):
            try:
                message = wire.receive(self._socket)
            except BlockingIOError:
                return
            except (OSError, WireError) as error:
                self.broken(error)
                return
            if message is None:
                self.close()
                return
            self._deliver(message)
            if self.closed.is_set():
                return

    def _deliver(self, message: Message) -> None:
        try:
            receiver = self._receivers.get(message.id)
            if receiver is not None:
                receiver.receive(message)
        except WireError as error:
            self.broken(error)
        finally:
            message.close()

    def broken(self, error: Exception) -> None:
        """End the connection because the other side broke the protocol."""
        _log.warning("control connection broken", sandbox_id=self.sandbox_id, reason=str(error))
        self.close()


def _check_kind(message: Message, kind: Kind) -> None:
    if message.kind != kind:
        raise WireError(f"an answer of kind {message.kind:#x} instead of {kind.name}")


def _failure(message: Message) -> Failure:
    return Failure.decode(message.body)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
