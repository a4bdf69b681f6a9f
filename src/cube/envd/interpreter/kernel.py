"""One running kernel, seen from the service: send requests, receive checked events, stop it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field

import orjson
import structlog

from cube.envd.guest import LastingGuest
from cube.envd.interpreter.events import MAX_LINE, Done, Event, Failed, Fatal, Ready, Shown, Started, Text, decode
from cube.envd.interpreter.pipes import LineReader, LineTooLong, Writer, close_quietly, last_words
from cube.model.errors import InvalidInput, NotFound, Unavailable

log = structlog.get_logger(__name__)

#: Time for a kernel to become ready, in seconds; a busy machine needs seconds for what usually takes 0.2.
START_SECONDS = 30.0
#: Time for a kernel to take a request off its pipe, in seconds.
SEND_SECONDS = 10.0
#: Pause after each block of which nothing is wanted, in seconds: it bounds what chatter and floods of garbage cost.
DROP_PAUSE = 0.02


class KernelDied(Exception):
    """The kernel ended or broke the protocol. ``name`` is what the client is told the error is."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.message = message


@dataclass(slots=True)
class Transport:
    """The pipes of a kernel and the way to end it, whatever started it. The descriptors belong to the owner of this."""

    requests: int
    events: int
    kill: Callable[[int | None], Awaitable[None]]
    #: Read end of its stderr, where there is one; programs use it only until they have started.
    stderr: int | None = None
    #: Process id in the sandbox of what the service has started itself; ``None`` for what that has forked.
    process: int | None = None

    def describe(self, stream_of: Callable[[int], int]) -> TransportState:
        """What takes it up again in a copy of the sandbox. Raises ``NotFound`` when a pipe has been closed inside."""
        stderr = None
        if self.stderr is not None:
            with contextlib.suppress(NotFound):  # it is closed once the program has started
                stderr = stream_of(self.stderr)
        return TransportState(stream_of(self.requests), stream_of(self.events), stderr, self.process)


@dataclass(frozen=True, slots=True)
class TransportState:
    """Numbers of the streams of a transport, and the process behind it."""

    requests: int
    events: int
    stderr: int | None
    process: int | None

    async def open(self, guest: LastingGuest, kill: Callable[[int | None], Awaitable[None]]) -> Transport:
        """The transport in another connection or a copy. Raises ``NotFound`` when it is gone."""
        streams = [self.requests, self.events, *([] if self.stderr is None else [self.stderr])]
        requests, events, *rest = await guest.open_streams(streams)
        return Transport(requests, events, kill, rest[0] if rest else None, self.process)


@dataclass(frozen=True, slots=True)
class KernelState:
    """A kernel that runs, for whoever takes it up in a copy of its sandbox."""

    transport: TransportState
    pid: int
    #: Executions so far, and whether the last one still runs.
    count: int
    executing: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """Code to execute."""

    code: str
    env: dict[str, str] = field(default_factory=dict, repr=False)
    typescript: bool = False


class Kernel:
    """A kernel and the task that reads from it. Nothing else reads, so a silent client stops a chatty kernel."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._writer = Writer(transport.requests)
        self._reader = LineReader(transport.events, MAX_LINE)
        self._kill = transport.kill
        self._stderr = transport.stderr
        self._pid: int | None = None
        self._batches: asyncio.Queue[list[Event] | None] = asyncio.Queue(maxsize=1)
        self._executing = False
        self._pump: asyncio.Task[None] | None = None
        self._closed = False
        self._numbers = 0
        self._reason = KernelDied("UnexpectedEndOfExecution", "The kernel ended; its state is lost.")

    async def start(self, program: bytes = b"") -> None:
        """Send the program that the process is to run, if there is one, and wait until it is ready.

        Raises ``InvalidInput`` when the kernel cannot run in this sandbox, and ``Unavailable`` when it takes too long.
        """
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._writer.write(program)
                event = await self._first_event()
        except TimeoutError:
            raise Unavailable(f"The kernel was not ready within {START_SECONDS:.0f} seconds; try again.") from None
        except BrokenPipeError:
            event = None
        if not isinstance(event, Ready):
            raise InvalidInput(event.message if isinstance(event, Fatal) else self._obituary())
        self._go_on(event.pid)

    def _go_on(self, pid: int) -> None:
        self._pid = pid
        self._pump = asyncio.create_task(self._read_on(), name="kernel-pump")

    def describe(self, stream_of: Callable[[int], int]) -> KernelState | None:
        """What takes it up again; ``None`` when it has ended."""
        if not self.alive or self._pid is None:
            return None
        try:
            transport = self._transport.describe(stream_of)
        except NotFound:
            return None
        return KernelState(transport, self._pid, self._numbers, self._executing)

    async def take_up(self, state: KernelState, variables: Mapping[str, str]) -> Execution | None:
        """Go on with a kernel that another connection has started, with other environment variables.

        Returns the execution that was under way in it. Raises :class:`KernelDied`.
        """
        self._numbers, self._executing = state.count, state.executing
        self._go_on(state.pid)
        await self._write(b"\n")  # ends a request that was cut off
        await self._send({"op": "environment", "variables": dict(variables)})
        return Execution(self, state.count) if state.executing else None

    @property
    def alive(self) -> bool:
        """Whether it may still answer."""
        return self._pump is not None and not self._pump.done() and not self._closed

    async def execute(self, cell: Cell) -> Execution:
        """Send a cell. One at a time; raises :class:`KernelDied`."""
        if not self.alive:
            raise self.death()
        self._numbers += 1
        self._executing = True
        await self._send({"op": "execute", "id": self._numbers, **asdict(cell)})
        return Execution(self, self._numbers)

    async def interrupt(self, number: int) -> None:
        """Raise ``KeyboardInterrupt`` in an execution, if it still runs. Raises :class:`KernelDied`."""
        await self._send({"op": "interrupt", "id": number})

    async def next_batch(self) -> list[Event]:
        """Events of the running execution, as they come. Raises :class:`KernelDied`."""
        batch = await self._batches.get() if self.alive or not self._batches.empty() else None
        if batch is None:
            raise self.death()
        return batch

    def death(self) -> KernelDied:
        """Why it does not answer any more."""
        return KernelDied(self._reason.name, self._reason.message)

    def rest(self) -> None:
        """Nothing executes any more: from now on what the kernel says is dropped."""
        self._executing = False
        while not self._batches.empty():
            self._batches.get_nowait()

    async def close(self, reason: KernelDied | None = None) -> None:
        """End it; an execution under way fails with ``reason``. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._reason = reason or self._reason
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait({self._pump})
        self._wake_reader()
        self._reader.close()
        self._writer.close()
        close_quietly(self._stderr)
        await self._kill(self._pid)

    async def _first_event(self) -> Event | None:
        while (lines := await self._lines()) is not None:
            for event in map(decode, lines):
                if isinstance(event, Ready | Fatal):
                    return event
            await asyncio.sleep(DROP_PAUSE)
        return None

    async def _read_on(self) -> None:
        while (lines := await self._lines()) is not None:
            events = [event for event in map(decode, lines) if event is not None] if self._executing else []
            if events:
                await self._batches.put(events)
            if len(events) < len(lines):
                await asyncio.sleep(DROP_PAUSE)
        if self._executing:
            await self._batches.put(None)

    async def _lines(self) -> list[bytes] | None:
        try:
            return await self._reader.read()
        except LineTooLong:
            log.warning("kernel_line_too_long", limit=MAX_LINE)
        except BrokenPipeError:
            pass
        return None

    def _wake_reader(self) -> None:
        self.rest()
        self._batches.put_nowait(None)

    def _obituary(self) -> str:
        words = last_words(self._stderr)
        return f"The kernel ended while it started: {words}" if words else "The kernel ended while it started."

    async def _send(self, request: dict[str, object]) -> None:
        await self._write(orjson.dumps(request) + b"\n")

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._writer.write(data)
        except (BrokenPipeError, TimeoutError):
            raise self.death() from None


class Execution:
    """One cell that runs in a kernel."""

    def __init__(self, kernel: Kernel, number: int) -> None:
        self._kernel = kernel
        self._number = number
        self._started = False
        self.finished = False

    async def next(self) -> list[Event]:
        """More events of this execution; :attr:`finished` tells whether they were the last. Raises ``KernelDied``."""
        mine = self.select(await self._kernel.next_batch())
        if not mine and not self.finished:
            await asyncio.sleep(DROP_PAUSE)
        return mine

    def select(self, batch: list[Event]) -> list[Event]:
        """The part of a batch between the start and the end of this execution."""
        mine: list[Event] = []
        for event in batch:
            if event == Done(self._number):
                self.finished = True
                self._kernel.rest()
                break
            if isinstance(event, Started) and event.id == self._number:
                self._started = True
                mine.append(event)
            elif self._started and isinstance(event, Text | Shown | Failed):
                mine.append(event)
        return mine

    @property
    def kernel_alive(self) -> bool:
        """Whether its kernel may still answer."""
        return self._kernel.alive

    async def interrupt(self) -> None:
        """Interrupt it. Raises ``KernelDied``."""
        await self._kernel.interrupt(self._number)
