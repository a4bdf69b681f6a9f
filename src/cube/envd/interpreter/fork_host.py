"""The Python kernel host of a sandbox, seen from the service: a process that forks the kernels of all contexts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from cube.envd.guest import LastingGuest
from cube.envd.interpreter.events import Fatal, Refused, decode
from cube.envd.interpreter.kernel import DROP_PAUSE, Kernel, Transport, TransportState
from cube.envd.interpreter.pipes import LineReader, LineTooLong, Writer, close_quietly, last_words
from cube.envd.interpreter.processes import end, killer, pipes, spawn, spawn_program
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import CubeError, InvalidInput, NotFound, Unavailable

#: Longest line of a host, in bytes: it only says that it is ready or what went wrong.
_MAX_LINE = 64 * 1024


class HostEnded(Unavailable):
    """The host process has gone; another one can be started."""


class ForkHost:
    """Makes Python kernels. The process is started with the first of them."""

    def __init__(self, sandbox: EnvdSandbox) -> None:
        self._sandbox = sandbox
        self._loading = asyncio.Lock()
        self._control: _Control | None = None

    async def _load(self) -> _Control:
        """Start the host process if it does not run; does not wait until it is ready. Raises ``CubeError``."""
        async with self._loading:
            if self._control is None or not self._control.alive:
                await self.close()
                self._control = await _Control.start(self._sandbox)
            return self._control

    async def kernel(self, cwd: str) -> Kernel:
        """A new kernel, ready, that works in ``cwd`` (empty: the home directory). Raises ``CubeError``."""
        try:
            return await self._fork(cwd)
        except HostEnded:  # code in the sandbox may have killed it just now, before we could know
            return await self._fork(cwd)

    async def _fork(self, cwd: str) -> Kernel:
        control = await self._load()
        holder = await spawn(self._sandbox, ("sleep", "3600"))
        close_quietly(holder.stderr)
        try:
            return await control.fork(holder.pid, pipes(holder), cwd)
        finally:
            await end(holder)

    def describe(self, stream_of: Callable[[int], int]) -> TransportState | None:
        """What takes the host up again; ``None`` when it does not run."""
        control = self._control
        if control is None or not control.alive:
            return None
        with contextlib.suppress(NotFound):
            return control.transport.describe(stream_of)
        return None

    async def take_up(self, guest: LastingGuest, state: TransportState, variables: Mapping[str, str]) -> None:
        """Go on with a host that another connection has started. Raises ``NotFound`` when it is gone."""
        transport = await state.open(guest, killer(guest, state.process))
        self._control = _Control(transport)
        await self._control.take_up(variables)

    async def renew(self, variables: Mapping[str, str]) -> None:
        """Set the variables of the kernels to come, if the host runs."""
        if self._control is not None and self._control.alive:
            await self._control.take_up(variables)

    async def kill(self, pid: int | None) -> None:
        """End a kernel that the host has forked."""
        if self._control is not None:
            await self._control.kill(pid)

    async def close(self) -> None:
        """End the host; kernels that run are not touched."""
        control, self._control = self._control, None
        if control is not None:
            await control.close()


class _Control:
    """The channel to one host process, and the task that reads its complaints."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._writer = Writer(transport.requests)
        self._reader = LineReader(transport.events, _MAX_LINE)
        self._refusals: dict[int, asyncio.Future[CubeError]] = {}
        self._failure: CubeError = HostEnded("The kernel host of this sandbox ended; try again.")
        self._listener = asyncio.create_task(self._listen(), name="kernel-host-control")

    @classmethod
    async def start(cls, sandbox: EnvdSandbox) -> _Control:
        transport, program = await spawn_program(sandbox, "python_host")
        control = cls(transport)
        try:
            with contextlib.suppress(BrokenPipeError):
                await control._writer.write(program)
        except BaseException:
            await control.close()
            raise
        return control

    async def take_up(self, variables: Mapping[str, str]) -> None:
        """Set the variables of the kernels to come."""
        with contextlib.suppress(BrokenPipeError):
            await self._writer.write(b"\n")  # ends a request that was cut off
            await self._request({"op": "environment", "variables": dict(variables)})

    @property
    def alive(self) -> bool:
        return not (self._listener.done() or self._listener.cancelling())

    async def fork(self, holder: int, descriptors: tuple[int, int], cwd: str) -> Kernel:
        refusal: asyncio.Future[CubeError] = asyncio.get_running_loop().create_future()
        self._refusals[holder] = refusal
        kernel = Kernel(Transport(*descriptors, self.kill))
        try:
            await self._request({"op": "fork", "holder": holder, "cwd": cwd})
            await _first(kernel, refusal)
        except BaseException:
            await kernel.close()
            raise
        finally:
            del self._refusals[holder]
        return kernel

    async def close(self) -> None:
        self._listener.cancel()
        await asyncio.wait({self._listener})
        self._reader.close()
        self._writer.close()
        close_quietly(self.transport.stderr)
        await self.transport.kill(None)

    async def kill(self, pid: int | None) -> None:
        """End a kernel that was forked here."""
        if pid is not None and self.alive:
            with contextlib.suppress(Unavailable):
                await self._request({"op": "kill", "pid": pid})

    async def _request(self, request: dict[str, object]) -> None:
        try:
            await self._writer.write(orjson.dumps(request) + b"\n")
        except BrokenPipeError:
            self._listener.cancel()
            raise self._failure from None

    async def _listen(self) -> None:
        try:
            with contextlib.suppress(LineTooLong, BrokenPipeError):
                while (lines := await self._reader.read()) is not None:
                    for line in lines:
                        self._take(line)
                    await asyncio.sleep(DROP_PAUSE)
            if words := last_words(self.transport.stderr):
                self._failure = InvalidInput(f"The kernel host could not start: {words}")
        finally:
            for refusal in self._refusals.values():
                _refuse(refusal, self._failure)

    def _take(self, line: bytes) -> None:
        match decode(line):
            case Fatal(message=message):
                self._failure = InvalidInput(message)
            case Refused(holder=holder, message=message) if holder in self._refusals:
                _refuse(self._refusals[holder], Unavailable(f"The kernel could not be started: {message}"))


def _refuse(refusal: asyncio.Future[CubeError], error: CubeError) -> None:
    if not refusal.done():
        refusal.set_result(error)


async def _first(kernel: Kernel, refusal: asyncio.Future[CubeError]) -> None:
    """Return when the kernel is ready; raise its error, or the host's, whichever comes first."""
    start = asyncio.create_task(kernel.start(), name="kernel-start")
    try:
        waited: set[asyncio.Future[Any]] = {start, refusal}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if refusal.done() and not start.done():
            raise refusal.result()
        await start
    finally:
        start.cancel()
        await asyncio.wait({start})
