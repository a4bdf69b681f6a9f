"""What a service method needs to know of the request that it answers, beside the message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from cube.envd.asgi import Message, Receive
from cube.envd.sandboxes import EnvdSandbox
from cube.envd.wakeup import Wakeup

#: Seconds of silence after which a stream says that it is alive, unless the client asks for another interval.
KEEPALIVE = 90.0


class Connection:
    """The client's side of a request: notices when it goes away.

    ``connectrpc`` looks for a disconnect only when it has something to send; a stream has to know at once,
    so that output is kept for the next client instead of being sent to nobody.
    """

    __slots__ = ("_receive", "gone", "on_gone")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.gone = False
        self.on_gone: Callable[[], None] | None = None

    async def receive(self) -> Message:
        """ASGI ``receive`` that takes note."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()
        return message


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``deadline`` is a time of the event loop's clock."""

    sandbox: EnvdSandbox
    user: str
    connection: Connection
    keepalive: float = KEEPALIVE
    deadline: float | None = None

    def check_deadline(self) -> None:
        """Raise ``TimeoutError`` when the client's time limit is over."""
        if self.deadline is not None and asyncio.get_running_loop().time() >= self.deadline:
            raise TimeoutError

    async def wait(self, wakeup: Wakeup) -> bool:
        """Wait until something happens; false when it is time for a sign of life instead.

        Raises ``TimeoutError`` when the client's time limit is over.
        """
        if self.deadline is None:
            return await wakeup.wait(self.keepalive)
        left = self.deadline - asyncio.get_running_loop().time()
        happened = await wakeup.wait(min(left, self.keepalive))
        # Decided by what was waited for, not by the clock: a timer may be early by its resolution.
        if not happened and left <= self.keepalive:
            raise TimeoutError
        return happened


#: Set for the task that answers a request, before the service method runs.
current_call: ContextVar[Call] = ContextVar("current_call")
