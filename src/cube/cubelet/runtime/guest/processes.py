"""Processes of a sandbox, as the host holds them."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from signal import NSIG, SIGKILL

from cube.cubelet.runtime.guest.control import REQUEST_SECONDS, ControlConnection, RequestFailed
from cube.cubelet.runtime.guest.failures import error_of
from cube.cubelet.runtime.guest.link import Handle, Message, Terminal
from cube.cubelet.runtime.guest.text import encode
from cube.cubelet.runtime.guest.wire import Failure, Kind, Reader, WireError, Writer
from cube.envd.guest import ExitStatus, GuestProcess, SpawnRequest, TerminalSize
from cube.model.errors import CubeError, InvalidInput, NotFound, SandboxNotRunning, Unavailable

_STDIN = 1
_TERMINAL = 2
_MAX_TERMINAL = 0xFFFF
_OUTPUTS = 2


class ControlProcess(GuestProcess):
    """A process that was started by :func:`spawn`; implements ``GuestProcess``. The descriptors are the caller's."""

    def __init__(self, connection: ControlConnection, pid: int) -> None:
        self.pid = pid
        self.stdin: int | None = None
        self.stdout: int | None = None
        self.stderr: int | None = None
        self.terminal: int | None = None
        self._terminal: Terminal | None = None
        self._connection = connection
        self._ended = asyncio.Event()
        self._status: ExitStatus | None = None

    async def wait(self) -> ExitStatus:
        await self._ended.wait()
        if self._status is None:
            raise self._connection.not_running()
        return self._status

    async def signal(self, number: int) -> None:
        if self._status is not None:
            raise NotFound(f"process {self.pid} has ended")
        await signal(self._connection, self.pid, number)

    async def resize(self, size: TerminalSize) -> None:
        if self._terminal is not None:
            await self._terminal.size(size)

    def adopt(self, handles: list[Handle], request: SpawnRequest) -> None:
        """Take its ends of stdio; raises ``WireError`` and has none of them when they are not what was asked for."""
        expected = 1 if request.terminal else 3 if request.stdin else 2
        if len(handles) != expected:
            raise WireError(f"SPAWNED came with {len(handles)} handles instead of {expected}")
        if request.terminal:
            self._terminal = handles[0].terminal()
            self.terminal = self._terminal.fd
            return
        with ExitStack() as taken:
            fds = [_pipe(handle, taken) for handle in handles]
            taken.pop_all()
        self.stdin = fds.pop(0) if request.stdin else None
        self.stdout, self.stderr = fds

    def take_up(self, handles: list[Handle | None], terminal: bool) -> None:
        """Take the ends of stdio that are left, in the order of :meth:`adopt`; raises ``WireError`` like it."""
        if terminal:
            self._terminal = handles[0].terminal() if handles[0] is not None else None
            self.terminal = self._terminal.fd if self._terminal is not None else None
            return
        with ExitStack() as taken:
            fds = [None if handle is None else _pipe(handle, taken) for handle in handles]
            taken.pop_all()
        self.stdin = fds.pop(0) if len(fds) > _OUTPUTS else None
        self.stdout, self.stderr = fds

    def release(self) -> None:
        """Close the descriptors, which nobody has been given."""
        for fd in (self.stdin, self.stdout, self.stderr, self.terminal):
            if fd is not None:
                os.close(fd)

    def end(self, status: ExitStatus | None) -> None:
        """It has ended; ``None`` when nobody will ever know how."""
        self._status = status
        self._ended.set()


class ProcessReceiver:
    """Receives everything about one process, from ``SPAWNED`` to ``EXITED``."""

    def __init__(
        self, connection: ControlConnection, request: SpawnRequest, process: ControlProcess | None = None
    ) -> None:
        self.started: asyncio.Future[ControlProcess] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._request = request
        self._process = process
        self._followed = False
        self._abandoned = False

    @property
    def outlasts_pauses(self) -> bool:
        return self._process is not None and not self._abandoned

    def receive(self, message: Message) -> None:
        if message.kind == Kind.EXITED and self._process is not None:
            self._exited(message, self._process)
        elif message.kind == Kind.ERROR and self._process is not None and self._followed:
            self._connection.remove(message.id)
            self._process.end(None)
        elif self._process is not None:
            raise WireError(f"a second answer of kind {message.kind:#x} to one SPAWN")
        elif message.kind == Kind.ERROR:
            self._failed(message)
        else:
            self._spawned(message)

    def lost(self) -> None:
        if not self.started.done():
            self.started.set_exception(self._connection.not_running())
        if self._process is not None:
            self._process.end(None)

    def abandon(self) -> None:
        """Nobody wants the process any more: end it, now or as soon as it has started."""
        self._abandoned = True
        if not self.started.cancel() and not self.started.cancelled():
            self.started.exception()  # looked at, so that nobody complains about it
        if self._process is not None:
            self._process.release()
            self._kill(self._process)

    def resume(self, request_id: int) -> None:
        """Ask for the end of a process that was started in an earlier session; it may turn out to be unknown."""
        self._followed = True
        if self._process is not None:
            self._connection.send(Kind.FOLLOW, request_id, Writer().u32(self._process.pid).finish())

    def _spawned(self, message: Message) -> None:
        if message.kind != Kind.SPAWNED:
            raise WireError(f"an answer of kind {message.kind:#x} to SPAWN")
        process = ControlProcess(self._connection, _body_pid(message))
        process.adopt(message.handles, self._request)
        self._process = process
        if self._abandoned:
            process.release()
            self._kill(process)
            return
        self.started.set_result(process)

    def _exited(self, message: Message, process: ControlProcess) -> None:
        reader = Reader(message.body)
        pid, status = reader.u32(), reader.i32()
        reader.end()
        if pid != process.pid:
            raise WireError("EXITED names another process than SPAWNED")
        process.end(_exit_status(status))
        self._connection.remove(message.id)

    def _failed(self, message: Message) -> None:
        failure = Failure.decode(message.body)
        self._connection.remove(message.id)
        if not self.started.done():
            self.started.set_exception(self._error(failure))

    def _error(self, failure: Failure) -> CubeError:
        request = self._request
        return error_of(failure, user=request.user, path=request.argv[0], cwd=request.cwd)

    def _kill(self, process: ControlProcess) -> None:
        # Its answer has nobody to wait for it: number 0 is never given to a request.
        try:
            self._connection.send(Kind.SIGNAL, 0, signal_body(process.pid, SIGKILL))
        except (SandboxNotRunning, Unavailable):
            return


async def spawn(connection: ControlConnection, request: SpawnRequest) -> ControlProcess:
    """Start a process; see ``Guest.spawn`` for what is raised. When cancelled, the process is killed."""
    body = _spawn_body(request)
    start = ProcessReceiver(connection, request)
    request_id = connection.add(start)
    try:
        connection.send(Kind.SPAWN, request_id, body)
        async with asyncio.timeout(REQUEST_SECONDS):
            return await start.started
    except TimeoutError:
        start.abandon()
        raise Unavailable(f"sandbox {connection.sandbox_id!r} did not start the process in time; try again") from None
    except CubeError:
        connection.remove(request_id)
        raise
    except asyncio.CancelledError:
        start.abandon()
        raise


async def signal(connection: ControlConnection, pid: int, number: int) -> None:
    """Send a signal to a process that was started through process 1; raises ``NotFound``."""
    if not 0 < number < NSIG:
        raise InvalidInput(f"there is no signal {number}", field="signal")
    try:
        answer = await connection.request(Kind.SIGNAL, signal_body(pid, number))
    except RequestFailed as error:
        raise error_of(error.failure, user="", path=f"process {pid}") from None
    answer.close()


def follow(connection: ControlConnection, process: ControlProcess) -> None:
    """Be told of the end of a process that was started in an earlier session. Raises ``SandboxNotRunning``."""
    receiver = ProcessReceiver(connection, SpawnRequest((), ""), process)
    receiver.resume(connection.add(receiver))


def _spawn_body(request: SpawnRequest) -> bytes:
    size = request.terminal
    if not request.argv:
        raise InvalidInput("a process needs a program to execute")
    if size is not None and not (0 <= size.cols <= _MAX_TERMINAL and 0 <= size.rows <= _MAX_TERMINAL):
        raise InvalidInput(f"a terminal has from 0 to {_MAX_TERMINAL} columns and rows", field="size")
    flags = (_STDIN if request.stdin else 0) | (_TERMINAL if size is not None else 0)
    writer = Writer().u32(flags).u32(size.cols if size else 0).u32(size.rows if size else 0)
    writer.data(encode(request.user, "user")).data(encode(request.cwd, "cwd"))
    _put_all(writer, [encode(argument, "args") for argument in request.argv])
    _put_all(writer, [_variable(name, value) for name, value in request.env.items()])
    return writer.finish()


def _variable(name: str, value: str) -> bytes:
    if not name or "=" in name:
        raise InvalidInput(f"{name!r} cannot be the name of an environment variable", field="envs")
    return encode(f"{name}={value}", "envs")


def _put_all(writer: Writer, values: list[bytes]) -> None:
    writer.u32(len(values))
    for value in values:
        writer.data(value)


def signal_body(pid: int, number: int) -> bytes:
    return Writer().u32(pid).u32(number).finish()


def _body_pid(message: Message) -> int:
    reader = Reader(message.body)
    pid = reader.u32()
    reader.end()
    return pid


def _pipe(handle: Handle, taken: ExitStack) -> int:
    fd = handle.pipe()
    taken.callback(os.close, fd)
    return fd


def _exit_status(status: int) -> ExitStatus:
    if os.WIFEXITED(status):
        return ExitStatus(os.WEXITSTATUS(status))
    if os.WIFSIGNALED(status):
        return ExitStatus(None, os.WTERMSIG(status))
    raise WireError(f"wait status {status:#x} is not that of a process that has ended")
