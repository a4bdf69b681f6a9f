"""The launcher: one ``cube-init launch`` process of the service, which clones the first process of every sandbox.

The service itself must not fork: it is large, threaded and full of descriptors. The launcher is small, runs from a
sealed copy of its binary, so that no sandbox can ever write to what the host executes (CVE-2019-5736), and is started
again when it died; sandboxes do not depend on it once they serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import structlog

from cube.cubelet.runtime.container import datagrams
from cube.cubelet.runtime.container.datagrams import Datagram
from cube.cubelet.runtime.container.plan import PARKED_CONTROL, Plan, describe, encode_steps, ran_out_of_room
from cube.cubelet.runtime.container.steps import Park, Step
from cube.cubelet.runtime.guest.wire import Failure, Kind, Reader, WireError, Writer
from cube.model.errors import HostError, StorageFull

log = structlog.get_logger(__name__)

#: Seconds within which the launcher answers a request, and process 1 is ready. Both take milliseconds.
ANSWER_SECONDS = 10.0
#: Seconds within which a killed process is gone; a frozen or unresponsive disk can hold it up.
END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Launched:
    """A first process that serves, or one that is parked. The receiver owns the descriptor and the socket."""

    #: Process id of process 1 on the host.
    pid: int
    pidfd: int
    #: Non-blocking control connection.
    control: socket.socket


class Launcher:
    """Starts sandboxes. All calls come from the event loop that called :meth:`start`; any number at a time."""

    def __init__(self) -> None:
        self._program: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: _Channel | None = None
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the launcher, ``None`` when there is none."""
        return None if self._process is None else self._process.pid

    async def start(self, binary: Path) -> None:
        """Start the launcher process; raises ``HostError`` when ``binary`` cannot be executed."""
        try:
            content = await asyncio.to_thread(binary.read_bytes)
            self._program = datagrams.memory_file("cube-init", content, executable=True)
        except OSError as error:
            raise HostError(f"cube-init cannot be read: {error}; build it with `make -C native/cube-init`") from error
        try:
            await self._connected()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the launcher process. Starts under way fail, sandboxes live on. May be called twice."""
        if self._program is not None:
            os.close(self._program)
            self._program = None
        await _protected(self._stop())

    async def userns(self, base: int, size: int) -> int:
        """Descriptor of a new user namespace that maps ids 0 to ``size - 1`` to those from ``base`` on.

        Raises ``HostError`` when the kernel refuses.
        """
        return await self._namespace(Kind.USERNS, Writer().u32(base).u32(size))

    async def id_map(self, owner: int, extents: Sequence[tuple[int, int, int]]) -> int:
        """Descriptor of a user namespace of the user ``owner``, for id-mapped mounts and never to be entered.

        An extent (inside, outside, size) lets ids from ``inside`` on stand for those from ``outside`` on; 8 at most.
        Raises ``HostError`` when the kernel refuses.
        """
        body = Writer().u32(owner).u32(len(extents))
        for extent in extents:
            for number in extent:
                body.u32(number)
        return await self._namespace(Kind.ID_MAP, body)

    async def _namespace(self, kind: Kind, body: Writer) -> int:
        channel = await self._connected()
        answer = channel.request(kind, body.finish(), ())
        cancelled = await channel.settled(answer)
        message = answer.result()
        if message.kind != Kind.NAMESPACE:
            raise _refused(message, lambda _: "making a user namespace")
        (namespace,) = message.take_fds(1)
        if cancelled:
            os.close(namespace)
            raise asyncio.CancelledError
        return namespace

    async def launch(self, plan: Plan) -> Launched:
        """Carry out a plan; returns when process 1 serves.

        Raises ``HostError``, which names the step, when the kernel refuses one. Then, and when it is cancelled, it
        returns once the process is gone. The descriptors of the plan stay open and the caller's.
        """
        return await self._start(plan.complete, Kind.READY)

    async def park(self, steps: Sequence[Step]) -> Launched:
        """Carry out the first steps of a start and leave the process waiting for the rest; :meth:`resume` goes on.

        Raises and undoes like :meth:`launch`. A parked process ends with the launcher.
        """
        return await self._start(lambda control: [*steps, Park(control)], Kind.PARKED)

    async def resume(self, parked: Launched, plan: Plan) -> Launched:
        """Carry out the rest of a plan in a parked process, which is the caller's no more.

        Raises and undoes like :meth:`launch`.
        """
        steps = plan.complete(PARKED_CONTROL)
        try:
            try:
                body, fds = encode_steps(steps)
                datagrams.send(parked.control, Kind.LAUNCH, 0, body, fds)
            except OSError as error:
                raise HostError(f"the process that was parked for the sandbox is gone: {error}") from error
            await _expect(parked.control, Kind.READY, steps)
        except BaseException:
            await discard(parked)
            raise
        return parked

    async def execute(self, complete: Callable[[int], list[Step]]) -> tuple[int, int]:
        """Carry out steps that end in :class:`~cube.cubelet.runtime.container.execute.Execute`, which ``complete``
        makes for a control socket; returns process id and pidfd, the caller's, once the program runs.

        Raises and undoes like :meth:`launch`.
        """
        started = await self._start(complete, None)
        started.control.close()
        return started.pid, started.pidfd

    async def _start(self, complete: Callable[[int], list[Step]], expected: Kind | None) -> Launched:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            with theirs:
                steps = complete(theirs.fileno())
                pid, pidfd = await self._clone(steps)
            try:
                await _expect(ours, expected, steps)
            except BaseException:
                await _protected(_end(pidfd))
                raise
        except BaseException:
            ours.close()
            raise
        return Launched(pid, pidfd, ours)

    async def _clone(self, steps: Sequence[Step]) -> tuple[int, int]:
        channel = await self._connected()
        body, fds = encode_steps(steps)
        answer = channel.request(Kind.LAUNCH, body, fds)
        # A request cannot be called back, so a cancellation waits for the process in order to end it.
        cancelled = await channel.settled(answer)
        pid, pidfd = _process(answer.result(), steps)
        if cancelled:
            await _protected(_end(pidfd))
            raise asyncio.CancelledError
        return pid, pidfd

    async def _connected(self) -> _Channel:
        if self._channel is not None and not self._channel.closed:
            return self._channel
        async with self._starting:
            if self._channel is None or self._channel.closed:
                await _protected(self._restart())
        assert self._channel is not None  # noqa: S101
        return self._channel

    async def _restart(self) -> None:
        await self._stop()
        if self._program is None:
            raise HostError("the launcher is not running; the service is starting or stopping")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = await asyncio.to_thread(_spawn, self._program, theirs.fileno())
            except OSError as error:
                ours.close()
                raise HostError(f"cube-init cannot be executed: {error}") from error
        self._channel = _Channel(ours)

    async def _stop(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            await asyncio.to_thread(_reap, self._process)
        self._process = None


def _spawn(program: int, launch_socket: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["cube-init", "launch", str(launch_socket)],
        executable=f"/proc/{os.getpid()}/fd/{program}",
        pass_fds=[launch_socket],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
    )


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a launcher whose socket is closed."""
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Channel:
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


def _refused(message: Datagram, doing: Callable[[int], str], steps: Sequence[Step] = ()) -> HostError | StorageFull:
    """The error for an answer that is not the one hoped for; ``doing`` puts the stage of a failure into words."""
    message.close()
    if message.kind != Kind.ERROR:
        return HostError(f"cube-init answered with a message of unexpected kind {message.kind:#x}")
    failure = Failure.decode(message.body)
    where = f" ({failure.detail})" if failure.detail else ""
    sentence = f"{doing(failure.stage)} failed: {os.strerror(failure.errno)}{where}"
    return StorageFull(sentence) if ran_out_of_room(steps, failure) else HostError(sentence)


def _process(message: Datagram, steps: Sequence[Step]) -> tuple[int, int]:
    """Process id and descriptor of the new process; raises ``HostError`` and ``StorageFull``."""
    if message.kind != Kind.LAUNCHED:
        raise _refused(message, partial(describe, steps), steps)
    reader = Reader(message.body)
    pid = reader.u32()
    reader.end()
    (pidfd,) = message.take_fds(1)
    return pid, pidfd


async def discard(parked: Launched) -> None:
    """End a process that will not be used, and close what came with it."""
    parked.control.close()
    await _protected(_end(parked.pidfd))


async def _expect(control: socket.socket, kind: Kind | None, steps: Sequence[Step]) -> None:
    """Wait for a process to report this, ``None``: to close the socket.

    Raises ``HostError`` or ``StorageFull`` for anything else.
    """
    if not await _readable(control.fileno(), ANSWER_SECONDS):
        raise HostError(f"the first process of the sandbox was not ready within {ANSWER_SECONDS:g} seconds")
    try:
        message = datagrams.receive(control)
        if message is None:
            if kind is None:
                return
            raise HostError("the first process of the sandbox ended before it was ready")
        if message.kind != kind:
            raise _refused(message, partial(describe, steps), steps)
        message.take_fds(0)
    except (OSError, WireError) as error:
        raise HostError(f"the first process of the sandbox cannot be understood: {error}") from error


async def _readable(fd: int, seconds: float) -> bool:
    """Wait until a descriptor can be read; ``False`` when that takes longer."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        async with asyncio.timeout(seconds):
            await readable.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True


async def _end(pidfd: int) -> None:
    """Kill a process, wait until it is gone, and close its descriptor."""
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not await _readable(pidfd, END_SECONDS):
            log.error("a killed process does not end", seconds=END_SECONDS)
    finally:
        os.close(pidfd)


async def _protected(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end even when the caller is cancelled meanwhile; the cancellation goes on afterwards."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError
