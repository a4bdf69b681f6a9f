"""The inside of a microVM, reached through its serial port."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cube.cubelet.runtime.guest.control import RequestFailed
from cube.cubelet.runtime.guest.control_guest import ControlGuest
from cube.cubelet.runtime.guest.link import Message
from cube.cubelet.runtime.guest.wire import Kind, Reader, Writer
from cube.cubelet.runtime.microvm.channel import PortLink
from cube.cubelet.runtime.microvm.handles import file_failure, nothing
from cube.cubelet.runtime.microvm.identity import Identity, clock_body
from cube.model.errors import CubeError, HostError, SandboxNotRunning

T = TypeVar("T")


class GuestNotConfirmed(HostError):
    """A guest has not confirmed its identity: what runs in it may share secrets with others, so destroy it."""


class MicroVMGuest(ControlGuest):
    """Implements ``Guest``. Made by :meth:`connect`, used on one event loop."""

    def __init__(self, link: PortLink, sandbox_id: str) -> None:
        super().__init__(link, sandbox_id)
        self._link = link
        link.ask = self._ask

    @classmethod
    async def connect(cls, path: Path, sandbox_id: str, *, seconds: float = 30.0) -> MicroVMGuest:
        """Reach the guest behind the socket of its serial port; waits for one that still boots.

        Raises ``Unavailable`` after ``seconds``, and ``SandboxNotRunning`` when the guest has ended.
        """
        link = PortLink()
        guest = cls(link, sandbox_id)
        await guest._connect(path, seconds)
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

    async def freeze(self) -> None:
        """Stop everything in the sandbox but the relay, before its memory is captured: nothing runs in a copy until
        :meth:`identify` is done."""
        await self._ask(Kind.FREEZE, Writer().u32(1).finish(), Kind.OK, nothing)

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

    async def _connect(self, path: Path, seconds: float) -> None:
        try:
            await self._link.connect(path, seconds)
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
