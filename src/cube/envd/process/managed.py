"""One process from its start to its end, with its pipes, its time limit and the clients that follow it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from cube.envd.guest import ExitStatus, GuestProcess, TerminalSize
from cube.envd.process.input import InputWriter, TerminalWriter
from cube.envd.process.output import Channel, OutputLog
from cube.envd.process.pump import Pump
from cube.envd.process.throttle import Throttle
from cube.envd.wakeup import Wakeup
from cube.model.errors import Conflict, NotFound, Unavailable

#: Seconds without output after which an ended process is not waited for any more.
SILENCE = 0.2
#: Seconds after its end for which the output of those it left behind is still shown.
AFTERMATH = 2.0
#: Seconds from the time limit to the kill, so that the stream of the client says "time limit", not "killed".
_KILL_DELAY = 0.02
#: Seconds that whoever kills a process waits for its end.
DYING = 1.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What the client asked for, as ``List`` gives it back."""

    cmd: str
    args: tuple[str, ...] = ()
    envs: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    tag: str | None = None
    stdin: bool = True
    terminal: TerminalSize | None = None


class Subscription:
    """One client that follows a process; a context manager."""

    def __init__(self, process: ManagedProcess) -> None:
        self._process = process
        self._reader = process.output.attach()
        self.wakeup = Wakeup()

    def peek(self) -> tuple[Channel, bytes] | None:
        """The next output, ``None`` when there is none now."""
        return self._reader.peek()

    def delivered(self, count: int) -> None:
        """Say that ``count`` bytes of what :meth:`peek` gave have gone to the client."""
        self._reader.advance(count)
        self._process.make_progress()

    def __enter__(self) -> Subscription:
        self._process.subscriptions.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.subscriptions.remove(self)
        self._reader.close()
        self._process.make_progress()


class ManagedProcess:
    """A process and everything the host holds for it.

    :meth:`supervise` runs in a task of the table until the process has ended and its output is read. A process that
    leaves children behind that hold its pipes (``server &``) never gives an end of file, so after its exit the pipes
    are read only until they are silent for :data:`SILENCE` seconds, and no longer than :data:`AFTERMATH`; then the
    stream ends.
    """

    def __init__(self, spec: ProcessSpec, guest: GuestProcess, capacity: int, throttle: Throttle) -> None:
        self.spec = spec
        self.pid = guest.pid
        self.output = OutputLog(capacity)
        self.subscriptions: list[Subscription] = []
        self.exit: ExitStatus | None = None
        self.ended = False
        self._guest = guest
        self._throttle = throttle
        self._loop = asyncio.get_running_loop()
        self._stirred = Wakeup()
        self._pumps: list[Pump] = []
        self._input: InputWriter | None = None
        self._take_descriptors(guest)

    def _take_descriptors(self, guest: GuestProcess) -> None:
        if guest.terminal is not None:
            self._input = TerminalWriter(guest.terminal)
            self._add_pump(guest.terminal, Channel.TERMINAL)
        elif guest.stdin is not None:
            self._input = InputWriter(guest.stdin)
        for fd, channel in ((guest.stdout, Channel.STDOUT), (guest.stderr, Channel.STDERR)):
            if fd is not None:
                self._add_pump(fd, channel)

    def _add_pump(self, fd: int, channel: Channel) -> None:
        def sink(data: bytes) -> float | None:
            return self._received(channel, data)

        self._pumps.append(Pump(fd, sink, self._pump_ended))

    def _received(self, channel: Channel, data: bytes) -> float | None:
        self.output.append(channel, data)
        self._stirred.set()
        self._wake()
        if self.output.full:
            return None
        return 0 if self.output.listened else self._throttle.spend(len(data), self._loop.time())

    def _pump_ended(self) -> None:
        if self._guest.terminal is not None:
            self._close_input()
        self._stirred.set()

    def _wake(self) -> None:
        for subscription in self.subscriptions:
            subscription.wakeup.set()

    def make_progress(self) -> None:
        """Read the pipes again if that was waiting for a reader."""
        for pump in self._pumps:
            if pump.paused and not self.output.full:
                pump.resume()
                self._stirred.set()

    def subscribe(self) -> Subscription:
        """Follow it: ``with process.subscribe() as subscription``."""
        return Subscription(self)

    async def supervise(self, deadline: float | None) -> Iterable[Pump]:
        """See it to its end; returns the pipes that others still hold, which the caller now owns.

        ``deadline`` is the event loop's time at which it is killed. Cancelled, it closes everything.
        """
        try:
            self.exit = await self._exited(deadline)
            await self._drain()
        except BaseException as error:
            self._close_pumps()
            if not isinstance(error, Unavailable):
                raise
        finally:
            self._end()
        return [pump for pump in self._pumps if not pump.ended]

    def close(self) -> None:
        """Close everything at once; may be called twice."""
        self._close_pumps()
        self._end()

    def _end(self) -> None:
        self._close_input()
        self.ended = True
        self._wake()

    async def _exited(self, deadline: float | None) -> ExitStatus:
        try:
            async with asyncio.timeout_at(None if deadline is None else deadline + _KILL_DELAY):
                return await self._guest.wait()
        except TimeoutError:
            with contextlib.suppress(NotFound):
                await self._guest.signal(signal.SIGKILL)
        return await self._guest.wait()

    async def _drain(self) -> None:
        limit = self._loop.time() + AFTERMATH
        while not all(pump.ended for pump in self._pumps):
            held_up = any(pump.paused for pump in self._pumps)
            if not await self._stirred.wait(None if held_up else SILENCE):
                return
            if self._loop.time() > limit and not held_up:
                return

    def _close_pumps(self) -> None:
        for pump in self._pumps:
            pump.close()

    def _close_input(self) -> None:
        if self._input is not None:
            self._input.close()

    async def signal(self, number: int) -> None:
        """Send a signal; raises ``NotFound`` when it has ended.

        One that was killed has ended when this returns, unless the kernel takes longer than :data:`DYING`.
        """
        await self._guest.signal(number)
        if number == signal.SIGKILL:
            with contextlib.suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(DYING):
                    await self._guest.wait()

    async def write_stdin(self, data: bytes) -> None:
        """Write to standard input; raises ``Conflict`` when there is none or it is closed."""
        await self._pipe_input().write(data)

    async def close_stdin(self) -> None:
        """Close standard input once everything before is written; raises ``Conflict`` when there is none."""
        await self._pipe_input().finish()

    async def write_terminal(self, data: bytes) -> None:
        """Type into the terminal; raises ``Conflict`` when there is none."""
        if self.spec.terminal is None or self._input is None:
            raise Conflict("the process has no terminal: send stdin instead")
        await self._input.write(data)

    def _pipe_input(self) -> InputWriter:
        if self.spec.terminal is not None:
            raise Conflict("the process has a terminal: send pty input, and 0x04 (Ctrl-D) to end it")
        if self._input is None:
            raise Conflict("the process was started without stdin")
        return self._input

    async def resize(self, size: TerminalSize) -> None:
        """Set the size of the terminal; raises ``Conflict`` when there is none or it has ended."""
        if self._guest.terminal is None or self._pumps[0].ended:
            raise Conflict("the process has no terminal to resize")
        await self._guest.resize(size)
