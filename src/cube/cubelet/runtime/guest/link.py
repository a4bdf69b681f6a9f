"""What carries messages to process 1 of a sandbox and back, and what may come with an answer.

A container's process 1 is reached through a socket that passes descriptors; that of a microVM through a serial port,
where numbers of channels stand for them. Everything above (:mod:`cube.cubelet.runtime.guest.control` and what is built
on it) is the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cube.cubelet.runtime.guest.wire import WireError
from cube.envd.guest import Entry, GuestFile, TerminalSize


class Inotify(Protocol):
    """Events of a set of watched directories, as the kernel of the sandbox reports them."""

    def fileno(self) -> int:
        """A descriptor that polls readable when events wait."""
        ...

    async def read(self) -> bytes:
        """Some of the records that wait, whole ones unless the sandbox lies; empty when there are none.

        What had happened before the call is among what this and later calls return until one is empty.
        """
        ...

    def close(self) -> None:
        """Stop watching."""
        ...


@dataclass(frozen=True, slots=True)
class Terminal:
    """Master side of a pseudo-terminal: ``fd`` is read and written, ``size`` sets its size."""

    fd: int
    size: TerminalSetter


class TerminalSetter(Protocol):
    """Resizes one terminal."""

    async def __call__(self, size: TerminalSize) -> None: ...


class Handle(Protocol):
    """One thing that came with an answer. It is taken once as what it is expected to be, or closed.

    Each way of taking it raises ``WireError`` when it is something else, and leaves it as it was.
    """

    def pipe(self) -> int:
        """A descriptor of one end of a pipe, to wait for; the caller closes it."""
        ...

    def terminal(self) -> Terminal:
        """A terminal; the caller closes its descriptor."""
        ...

    def file(self, entry: Entry) -> GuestFile:
        """An open regular file, described by ``entry``."""
        ...

    def inotify(self) -> Inotify: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Message:
    """A received message. It owns its handles until they are taken."""

    kind: int
    id: int
    body: bytes
    handles: list[Handle] = field(default_factory=list)

    def take_handles(self) -> list[Handle]:
        """Hand over all handles, however many they are."""
        taken, self.handles = self.handles, []
        return taken

    def close(self) -> None:
        """Close the handles that were not taken; may be called twice."""
        for handle in self.take_handles():
            handle.close()


class Listener(Protocol):
    """Who is told what happens on a link."""

    def deliver(self, message: Message) -> None:
        """A message has come; its handles are closed afterwards unless they were taken."""
        ...

    def unsendable(self, request_id: int) -> None:
        """A request that waited for room could not be sent."""
        ...

    def lost(self, reason: WireError | OSError | None) -> None:
        """The link has ended, by itself or because the other side broke the rules."""
        ...


class Link(Protocol):
    """A link to one sandbox. Used on one event loop."""

    #: Requests are numbered from 1 to this.
    max_id: int

    def listen(self, listener: Listener) -> None:
        """Begin to deliver; called once."""
        ...

    def send(self, kind: int, request_id: int, body: bytes, attached: Sequence[Inotify] = ()) -> None:
        """Send a message, or keep it until there is room.

        Raises ``ConnectionError`` when the link has ended, ``Unavailable`` when too much is waiting or the host has no
        means left for it.
        """
        ...

    def close(self) -> None:
        """End the link; nothing is told any more. May be called twice."""
        ...
