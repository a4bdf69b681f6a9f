"""One QEMU process: started in its jail, spoken to, saved, loaded, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from cube.cubelet.runtime import unix_sockets
from cube.cubelet.runtime.container.execute import Execute
from cube.cubelet.runtime.container.launcher import Launcher
from cube.cubelet.runtime.container.steps import Step
from cube.cubelet.runtime.microvm import command
from cube.cubelet.runtime.microvm.command import ColdBoot, Machine
from cube.cubelet.runtime.microvm.jail import Jail
from cube.cubelet.runtime.microvm.monitor import PATIENCE, Monitor, MonitorClosed
from cube.cubelet.runtime.microvm.qmp import CommandFailed, Event, State
from cube.model.errors import CubeError, HostError

log = structlog.get_logger(__name__)

#: Seconds in which a killed process is gone.
_END: Final = 10.0
#: Bytes of QEMU's last words that are kept, and how many of them an error repeats.
_WORDS: Final = 1 << 16
_QUOTED: Final = 400
_STATE: Final = "state"
_SETTLED: Final = ("completed", "failed", "cancelled")
#: Leave memory out of a saved state: it is a file of its own. And tell of the end of saving and loading.
_CAPABILITIES: Final = ("x-ignore-shared", "events")


class VmmEnded(HostError):
    """QEMU has ended while it was needed; the message has its last words."""


@dataclass(frozen=True, slots=True)
class Doors:
    """The sockets of one machine: ``<name>.monitor``, ``.second`` and ``.control`` in a directory."""

    directory: Path
    name: str

    @property
    def control(self) -> Path:
        """The guest's control channel."""
        return self.directory / f"{self.name}.control"

    def listen(self, door: str) -> socket.socket:
        """The end that QEMU is given."""
        return unix_sockets.listen(self.directory, f"{self.name}.{door}", socket.SOCK_STREAM)

    def connect(self, door: str) -> socket.socket:
        """A connection to QEMU; raises ``OSError`` when nobody listens."""
        return unix_sockets.connect(self.directory, f"{self.name}.{door}", socket.SOCK_STREAM)

    def remove(self) -> None:
        """Remove the files; succeeds when there are none."""
        for door in DOORS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.directory / f"{self.name}.{door}")


#: In the order of their descriptors.
DOORS: Final = ("monitor", "second", "control")


@dataclass(frozen=True, slots=True)
class Drives:
    """Open files of one machine, borrowed until it has started."""

    #: The template's image, opened to read.
    image: int
    layer: int
    #: Of the TAP interface; ``None`` without a network.
    tap: int | None


class Vmm:
    """A running QEMU. Used on one event loop; :meth:`kill` must be called, however it ended."""

    def __init__(self, pid: int, pidfd: int, monitor: Monitor, words: int | None) -> None:
        self.pid = pid
        #: Set when the process is gone.
        self.ended = asyncio.Event()
        self._pidfd = pidfd
        self._monitor = monitor
        self._words = words
        #: Descriptors that are closed with it.
        self.owned: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._gone)

    @classmethod
    def adopt(cls, pid: int, doors: Doors) -> Vmm:
        """One that an earlier run of the service started; the caller knows that the process is the one. Raises
        ``OSError`` when it is gone."""
        pidfd = os.pidfd_open(pid)
        try:
            return cls(pid, pidfd, Monitor(doors.connect("monitor")), None)
        except BaseException:
            os.close(pidfd)
            raise

    @classmethod
    def forked(cls, pid: int, pidfd: int, conversation: socket.socket, words: int) -> Vmm:
        """A fork, which takes commands at once, for its zygote did. All that is given belongs to it."""
        return cls(pid, pidfd, Monitor(conversation, State.READY), words)

    async def ready(self, seconds: float = PATIENCE) -> None:
        """Wait until it takes commands. Raises ``VmmEnded``, ``HostError``."""
        with self._explained():
            await self._monitor.ready(seconds)
            capabilities = [{"capability": name, "state": True} for name in _CAPABILITIES]
            await self._monitor.execute("migrate-set-capabilities", {"capabilities": capabilities})

    async def load(self, state: int) -> None:
        """Take over the state of the devices from an open file; memory is that of the jail's file.

        Raises ``VmmEnded`` when the state does not fit: QEMU then ends itself.
        """
        await self._migrate("migrate-incoming", state)

    async def save(self, state: int) -> None:
        """Write the state of the devices of a stopped machine to an open file. Raises ``HostError``."""
        await self._migrate("migrate", state)

    async def cont(self) -> None:
        """Let the guest run."""
        await self.execute("cont")

    async def stop(self) -> None:
        """Stop the guest between two instructions; its disks are quiet when this returns."""
        await self.execute("stop")

    async def execute(self, name: str, arguments: dict[str, object] | None = None, *, fd: int | None = None) -> object:
        """Any command of QMP. Raises ``CommandFailed``, ``VmmEnded``."""
        with self._explained():
            return await self._monitor.execute(name, arguments, fd=fd)

    async def kill(self) -> None:
        """End it, whatever it does, and let go of what belongs to it; may be called twice."""
        self._monitor.close()
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            try:
                async with asyncio.timeout(_END):
                    await self.ended.wait()
            except TimeoutError:
                raise HostError(f"QEMU (process {self.pid}) survives SIGKILL: it hangs in the kernel") from None
        self.release()

    async def give_up(self) -> None:
        """End one that will not be used; what does not end is a leftover for later."""
        try:
            await self.kill()
        except CubeError as error:
            log.warning("vmm.stuck", pid=self.pid, reason=error.message)

    def release(self) -> None:
        """Let go of it and leave it running; may be called twice."""
        self._monitor.close()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._words is not None:
            os.close(self._words)
            self._words = None
        while self.owned:
            os.close(self.owned.pop())

    def owns(self, fd: int) -> None:
        """Have a descriptor closed when it is let go of."""
        self.owned.append(fd)

    def last_words(self) -> str:
        """The end of what it has written to its standard error."""
        if self._words is None:
            return ""
        try:
            said = os.read(self._words, _WORDS)
        except BlockingIOError:
            return ""
        return said.decode(errors="replace").strip()[-_QUOTED:]

    def _gone(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.ended.set()

    async def _migrate(self, how: str, state: int) -> None:
        settled: asyncio.Future[str] = self._loop.create_future()

        def listen(event: Event) -> None:
            status = event.data.get("status")
            if event.name == "MIGRATION" and status in _SETTLED and not settled.done():
                settled.set_result(str(status))

        with self._monitor.listening(listen), self._explained():
            await self._monitor.execute("getfd", {"fdname": _STATE}, fd=state)
            await self._monitor.execute(how, {"uri": f"fd:{_STATE}"})
            status = await self._until(settled)
            if status != "completed":
                found = await self._monitor.execute("query-migrate")
                raise CommandFailed(how, str(found.get("error-desc", status)))

    async def _until(self, settled: asyncio.Future[str]) -> str:
        closed = asyncio.ensure_future(self._monitor.closed.wait())
        try:
            await asyncio.wait((settled, closed), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
        if settled.done():
            return settled.result()
        raise MonitorClosed if self._monitor.closed.is_set() else HostError("QEMU does not finish its state")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say why QEMU ended, where it did."""
        try:
            yield
        except MonitorClosed as error:
            words = self.last_words()
            raise VmmEnded(f"{error.message}: {words}" if words else error.message) from error


async def start(
    launcher: Launcher,
    jail: Jail,
    places: Sequence[Step],
    machine: Machine,
    drives: Drives,
    doors: Doors,
    boot: ColdBoot | None = None,
    forks: int | None = None,
) -> Vmm:
    """Start QEMU for a machine; returns when it takes commands. The guest does not run yet.

    ``places`` are the steps that put the process into its cgroup. ``forks``, beside a TAP, makes it a zygote: it is the
    socket over which it is asked to fork. Raises ``HostError``; then, and when it is cancelled, no process is left.
    """
    with contextlib.ExitStack() as ours:
        listeners = [ours.enter_context(doors.listen(door)) for door in DOORS]
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        ours.callback(os.close, writer)
        given = [*(listener.fileno() for listener in listeners), drives.image, drives.layer]
        given += [one for one in (drives.tap, forks) if one is not None]
        argv = tuple(command.arguments(machine, boot, zygote=forks is not None))

        def complete(control: int) -> list[Step]:
            program = Execute(control, writer, command.PROGRAM, argv, command.environment(), tuple(given))
            return [*places, *jail.steps(), program]

        try:
            pid, pidfd = await launcher.execute(complete)
        except BaseException:
            os.close(reader)
            raise
    return await _greeted(pid, pidfd, doors, reader)


async def _greeted(pid: int, pidfd: int, doors: Doors, words: int) -> Vmm:
    vmm = Vmm(pid, pidfd, Monitor(doors.connect("monitor")), words)
    try:
        await vmm.ready()
    except BaseException:
        await asyncio.shield(vmm.give_up())
        raise
    return vmm
