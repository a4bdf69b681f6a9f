"""The inside of a microVM, reached through its serial port."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from cube.cubelet.runtime.guest import processes
from cube.cubelet.runtime.guest.control import RequestFailed
from cube.cubelet.runtime.guest.control_guest import ControlGuest
from cube.cubelet.runtime.guest.link import Handle, Message
from cube.cubelet.runtime.guest.wire import Kind, Reader, WireError, Writer
from cube.cubelet.runtime.microvm.channel import Door, PortLink
from cube.cubelet.runtime.microvm.frames import ChannelType
from cube.cubelet.runtime.microvm.handles import file_failure, nothing
from cube.cubelet.runtime.microvm.identity import Identity, clock_body
from cube.cubelet.runtime.microvm.survivors import Live
from cube.envd.guest import GuestProcess, LastingGuest, Survivor
from cube.model.errors import CubeError, HostError, LimitExceeded, NotFound, SandboxNotRunning, Unavailable

T = TypeVar("T")

#: Bytes that the relay keeps for a process.
NOTE_MAX = 4096


class GuestNotConfirmed(HostError):
    """A guest has not confirmed its identity: what runs in it may share secrets with others, so destroy it."""


class MicroVMGuest(ControlGuest, LastingGuest):
    """Implements ``Guest``. Made by :meth:`connect`, used on one event loop."""

    def __init__(self, link: PortLink, sandbox_id: str) -> None:
        super().__init__(link, sandbox_id)
        self._link = link
        link.ask = self._ask

    @classmethod
    async def connect(cls, door: Door, sandbox_id: str, *, seconds: float = 30.0) -> MicroVMGuest:
        """Reach the guest behind the socket of its serial port, or over a connection; waits for one that still boots.

        Raises ``Unavailable`` after ``seconds``, and ``SandboxNotRunning`` when the guest has ended.
        """
        link = PortLink()
        guest = cls(link, sandbox_id)
        await guest._connect(door, seconds)
        return guest

    async def identify(self, identity: Identity) -> None:
        """Make it the sandbox that it is to be, and let go what :meth:`freeze` stopped.

        Raises :class:`GuestNotConfirmed`.
        """
        try:
            confirmed = await self._ask(Kind.IDENTITY, identity.encode(), Kind.CONFIRMED, _number)
        except CubeError as error:
            raise GuestNotConfirmed(f"the guest did not take its identity: {error.message}") from error
        if confirmed != identity.generation:
            await self.close()
            raise GuestNotConfirmed("the guest has confirmed another identity")

    async def set_clock(self) -> None:
        """Set the clock, after the VM stood still."""
        await self._ask(Kind.CLOCK, clock_body(), Kind.OK, nothing)

    async def freeze(self, *, write_out: bool = False) -> None:
        """Stop everything in the sandbox but the relay, before its memory is captured: nothing runs in a copy until
        :meth:`identify` is done. ``write_out`` has its file system on the disk, to be used without memory."""
        await self._ask(Kind.FREEZE, Writer().u32(2 if write_out else 1).finish(), Kind.OK, nothing)

    async def thaw(self) -> None:
        """Let it go on, in the one that was captured."""
        await self._ask(Kind.FREEZE, Writer().u32(0).finish(), Kind.OK, nothing)

    async def suspend(self) -> None:
        """Freeze it and let go of its channel, before the VM goes away; pipes stay open. See :meth:`resume`."""
        await self.freeze()
        self._connection.suspend()
        self._link.detach()

    async def resume(self, path: Path, *, seconds: float = 30.0) -> None:
        """Go on with the VM that was restored from the state after :meth:`suspend`; :meth:`identify` has to follow."""
        await self._connect(path, seconds)
        self._connection.resume()

    # -- what an earlier connection has left ---------------------------------------------------------------------

    def annotate(self, pid: int, note: bytes) -> None:
        with contextlib.suppress(SandboxNotRunning, Unavailable):
            self._connection.send(Kind.NOTE, 0, Writer().u32(pid).data(note[:NOTE_MAX]).finish())

    async def survivors(self) -> list[Survivor]:
        live = await self._live()
        return [Survivor(one.pid, one.note) for one in live.processes.values() if not self._has_any(one.channels)]

    async def take_up(self, pid: int) -> GuestProcess:
        live = await self._live()
        if (found := live.processes.get(pid)) is None:
            raise NotFound(f"process {pid} does not run in the sandbox")
        process = processes.ControlProcess(self._connection, pid)
        kinds = {live.channels[number].type for number in found.channels if number in live.channels}
        with self._hostile():
            handles = [self._followed(live, number) for number in found.channels]
            process.take_up(handles, ChannelType.TERMINAL in kinds)
        processes.follow(self._connection, process)
        return process

    def stream_of(self, fd: int) -> int:
        if (number := self._link.number_of(fd)) is None:
            raise NotFound("the stream has ended")
        return number

    async def open_streams(self, streams: Sequence[int]) -> list[int]:
        live = await self._live()
        with self._hostile(), ExitStack() as taken:
            fds = []
            for number in streams:
                if (handle := self._followed(live, number)) is None:
                    raise NotFound("the stream has ended")
                fds.append(handle.pipe())
                taken.callback(os.close, fds[-1])
            taken.pop_all()
        return fds

    async def signal(self, pid: int, number: int) -> None:
        await processes.signal(self._connection, pid, number)

    async def drop_rest(self) -> None:
        for number in (await self._live()).channels:
            if not self._link.has(number):
                self._link.drop(number)

    async def _live(self) -> Live:
        return await self._ask(Kind.LIVE, b"", Kind.SURVIVORS, Live.decode)

    def _has_any(self, channels: Iterable[int]) -> bool:
        return any(self._link.has(number) for number in channels)

    def _followed(self, live: Live, number: int) -> Handle | None:
        channel = live.channels.get(number)
        if channel is None or self._link.has(number):
            return None
        return self._link.follow(number, channel.type, came=channel.kept_from, sent=channel.taken)

    @contextmanager
    def _hostile(self) -> Iterator[None]:
        """What the guest has said of its channels must make sense."""
        try:
            yield
        except WireError as error:
            self._connection.broken(error)
            raise self._connection.not_running() from None
        except OSError as error:
            raise LimitExceeded(f"the host has no descriptors left: {error.strerror}") from error

    async def _connect(self, door: Door, seconds: float) -> None:
        try:
            await self._link.connect(door, seconds)
        except ConnectionError as error:
            self._connection.close()
            raise SandboxNotRunning(self._connection.sandbox_id, "dead") from error
        except BaseException:
            self._connection.close()
            raise

    async def _ask(self, kind: Kind, body: bytes, answer: Kind, parse: Callable[[Message], T]) -> T:
        try:
            message = await self._connection.request(kind, body)
        except RequestFailed as error:
            raise file_failure(error.failure.errno) from None
        return self._connection.decode(message, answer, parse)


def _number(message: Message) -> int:
    reader = Reader(message.body)
    number = reader.u64()
    reader.end()
    return number
