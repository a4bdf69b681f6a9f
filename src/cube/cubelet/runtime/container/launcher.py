"""The launcher: one ``cube-init launch`` process of the service, which clones the first process of every sandbox.

The service itself must not fork: it is large, threaded and full of descriptors. The launcher is small, runs from a
sealed copy of its binary, so that no sandbox can ever write to what the host executes (CVE-2019-5736), and is started
again when it died; sandboxes do not depend on it once they serve.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cube.cubelet.runtime.container import datagrams
from cube.cubelet.runtime.container.channel import Channel, refused
from cube.cubelet.runtime.container.datagrams import Datagram
from cube.cubelet.runtime.container.first_process import ProcessGone, end, expect
from cube.cubelet.runtime.container.plan import PARKED_CONTROL, Plan, describe, encode_steps
from cube.cubelet.runtime.container.steps import Park, Step
from cube.cubelet.runtime.container.uninterrupted import protected
from cube.cubelet.runtime.guest.wire import Kind, Reader, Writer
from cube.helper.process import reap
from cube.model.errors import HostError


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
        self._channel: Channel | None = None
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
        await protected(self._stop())

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
            raise refused(message, lambda _: "making a user namespace")
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

        Raises and undoes like :meth:`launch`, and ``ProcessGone``.
        """
        steps = plan.complete(PARKED_CONTROL)
        try:
            try:
                body, fds = encode_steps(steps)
                datagrams.send(parked.control, Kind.LAUNCH, 0, body, fds)
            except OSError as error:
                raise ProcessGone(f"the process that was parked for the sandbox is gone: {error}") from error
            await expect(parked.control, Kind.READY, steps)
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
                await expect(ours, expected, steps)
            except BaseException:
                await protected(end(pidfd))
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
            await protected(end(pidfd))
            raise asyncio.CancelledError
        return pid, pidfd

    async def _connected(self) -> Channel:
        if self._channel is not None and not self._channel.closed:
            return self._channel
        async with self._starting:
            if self._channel is None or self._channel.closed:
                await protected(self._restart())
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
        self._channel = Channel(ours)

    async def _stop(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            await asyncio.to_thread(reap, self._process)
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


def _process(message: Datagram, steps: Sequence[Step]) -> tuple[int, int]:
    """Process id and descriptor of the new process; raises ``HostError`` and ``StorageFull``."""
    if message.kind != Kind.LAUNCHED:
        raise refused(message, partial(describe, steps), steps)
    reader = Reader(message.body)
    pid = reader.u32()
    reader.end()
    (pidfd,) = message.take_fds(1)
    return pid, pidfd


async def discard(parked: Launched) -> None:
    """End a process that will not be used, and close what came with it."""
    parked.control.close()
    await protected(end(parked.pidfd))
