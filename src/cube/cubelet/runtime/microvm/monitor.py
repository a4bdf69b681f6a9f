"""A QMP conversation over a unix socket, for the event loop."""

from __future__ import annotations

import array
import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import structlog

from cube.cubelet.runtime.microvm.qmp import Answer, CommandFailed, Event, Protocol, QmpError, Ready, State
from cube.model.errors import HostError

log = structlog.get_logger(__name__)

#: Seconds that QEMU gets for a command. All take milliseconds; fifty machines that start at once take longer.
PATIENCE: Final = 60.0
_CHUNK: Final = 1 << 16

Listener = Callable[[Event], None]


class MonitorClosed(HostError):
    """QEMU has closed the conversation: it ends, or it broke the rules."""

    def __init__(self, reason: str = "QEMU has ended") -> None:
        super().__init__(reason)


class Monitor:
    """Owns the socket; used on one event loop. Commands may overlap, QEMU carries them out in order."""

    def __init__(self, connection: socket.socket, state: State = State.GREETING) -> None:
        connection.setblocking(False)
        #: Set when the conversation is over.
        self.closed = asyncio.Event()
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._protocol = Protocol(state)
        self._ready: asyncio.Future[str] = self._loop.create_future()
        self._answers: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._unsent: deque[tuple[bytes, int | None]] = deque()
        self._listeners: set[Listener] = set()
        self._loop.add_reader(connection, self._receive)

    async def ready(self, seconds: float = PATIENCE) -> str:
        """Wait until QEMU takes commands; returns its version. Raises ``MonitorClosed``, ``HostError``."""
        return str(await self._within(self._ready, seconds, "greet"))

    async def execute(
        self, command: str, arguments: dict[str, Any] | None = None, *, fd: int | None = None, seconds: float = PATIENCE
    ) -> Any:
        """Carry out a command, with a descriptor that it takes. Raises ``CommandFailed``, ``MonitorClosed``, and
        ``HostError`` when there is no answer in time."""
        if self.closed.is_set():
            raise MonitorClosed
        number, data = self._protocol.command(command, arguments)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._answers[number] = (command, answer)
        self._unsent.append((data, fd))
        self._send()
        return await self._within(answer, seconds, command)

    @contextlib.contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Have ``listener`` called for each event during the block."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def close(self, reason: str = "the conversation with QEMU was ended") -> None:
        """End the conversation; whoever waits is told ``MonitorClosed``. May be called twice."""
        if self.closed.is_set():
            return
        self.closed.set()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        waiting = [self._ready, *(answer for _, answer in self._answers.values())]
        self._answers.clear()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(MonitorClosed(reason))
                answer.exception()  # nobody may be waiting for it, which is no mistake

    async def _within(self, answer: asyncio.Future[Any], seconds: float, doing: str) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(answer)
        except TimeoutError:
            raise HostError(f"QEMU did not answer {doing} within {seconds:g} seconds") from None

    def _send(self) -> None:
        while self._unsent:
            data, fd = self._unsent[0]
            try:
                sent = self._send_some(data, fd)
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._send)
                return
            except OSError as error:
                self.close(f"QEMU has ended: {error.strerror}")
                return
            if sent < len(data):
                self._unsent[0] = (data[sent:], None)
            else:
                self._unsent.popleft()
        self._loop.remove_writer(self._socket)

    def _send_some(self, data: bytes, fd: int | None) -> int:
        if fd is None:
            return self._socket.send(data)
        return self._socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(f"QEMU has ended: {error.strerror}")
            return
        if not data:
            self.close("QEMU has ended")
            return
        try:
            for message in self._protocol.feed(data):
                self._take(message)
        except QmpError as error:
            log.warning("qmp.broken", reason=error.message)
            self.close(error.message)
            return
        if more := self._protocol.to_send():
            self._unsent.append((more, None))
            self._send()

    def _take(self, message: Event | Answer | Ready) -> None:
        if isinstance(message, Event):
            for listener in tuple(self._listeners):
                listener(message)
        elif isinstance(message, Ready):
            if not self._ready.done():
                self._ready.set_result(message.version)
        else:
            self._settle(message)

    def _settle(self, answer: Answer) -> None:
        command, waiting = self._answers.pop(answer.number)
        if waiting.done():
            return
        if answer.refused is None:
            waiting.set_result(answer.value)
        else:
            waiting.set_exception(CommandFailed(command, answer.refused))
            waiting.exception()
