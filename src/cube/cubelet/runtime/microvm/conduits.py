"""Pipes on the host that stand for those in a guest: envd holds one end, the channel to the guest feeds the other.

Each holds at most a window of bytes beside what the pipe itself holds.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Protocol

from cube.cubelet.runtime.microvm.frames import WINDOW, ChannelType


class Flow(Protocol):
    """What a conduit tells the channel that it belongs to."""

    def room(self) -> int:
        """Bytes that may be sent to the guest now."""
        ...

    def send(self, data: bytes) -> None:
        """Send what envd has written."""
        ...

    def written_out(self) -> None:
        """envd will write no more."""
        ...

    def delivered(self, size: int) -> None:
        """envd's end has taken so many bytes."""
        ...

    def left(self) -> None:
        """envd reads no more, or everything up to the end has been delivered: the channel is of no use."""
        ...


class Conduit:
    """One end of a pipe or socket pair, whose other end, ``theirs``, is taken once by whoever uses it."""

    def __init__(self, kind: ChannelType, flow: Flow) -> None:
        self._loop = asyncio.get_running_loop()
        self._kind = kind
        self._flow = flow
        self._held = bytearray()
        self._finishing = False
        self._writing = False
        self._reading = False
        self._ours, self._theirs = _ends(kind)
        self.resume()

    @property
    def identity(self) -> tuple[int, int]:
        """What :func:`os.fstat` says of both ends of a pipe."""
        status = os.fstat(self._ours)
        return status.st_dev, status.st_ino

    def take(self) -> int:
        """The other end, from now on the caller's."""
        theirs, self._theirs = self._theirs, -1
        return theirs

    @property
    def taken(self) -> bool:
        """Whether somebody has the other end."""
        return self._theirs < 0

    def deliver(self, data: bytes) -> None:
        """Bytes of the guest."""
        self._held += data
        self._drain()

    def finish(self) -> None:
        """The guest has ended it: so does this side, after what is held."""
        self._finishing = True
        self._drain()

    def rewind(self) -> None:
        """Forget what is held: it will come again."""
        self._held.clear()
        self._finishing = False
        self._stop_writing()

    def resume(self) -> None:
        """There is room in the guest, or envd's end may have changed: look at it."""
        if self._ours >= 0 and not self._reading and (not self._kind.writable or self._flow.room() > 0):
            # A pipe that is only written to is readable for the loop once nobody reads it any more.
            self._loop.add_reader(self._ours, self._readable)
            self._reading = True

    def close(self) -> None:
        """Close this end, and the other one if nobody has taken it. May be called twice."""
        if self._ours < 0:
            return
        self._stop_writing()
        self._stop_reading()
        os.close(self._ours)
        self._ours = -1
        if self._theirs >= 0:
            os.close(self.take())

    def _drain(self) -> None:
        written = 0
        try:
            while self._held and self._ours >= 0:
                count = os.write(self._ours, self._held)
                del self._held[:count]
                written += count
        except BlockingIOError:
            self._start_writing()
        except OSError:
            self._leave()
            return
        if written:
            self._flow.delivered(written)
        if not self._held:
            self._stop_writing()
            if self._finishing:
                self._leave()

    def _readable(self) -> None:
        if not self._kind.writable:
            self._leave()
            return
        room = self._flow.room()
        if room <= 0:
            self._stop_reading()
            return
        try:
            data = os.read(self._ours, min(room, WINDOW))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._flow.send(data)
        else:
            self._stop_reading()
            self._ended_by_envd()

    def _ended_by_envd(self) -> None:
        if self._kind is ChannelType.SINK:
            self._flow.written_out()
            self.close()
        else:
            self._leave()

    def _leave(self) -> None:
        self.close()
        self._flow.left()

    def _start_writing(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._ours, self._drain)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._ours)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._ours)


def _ends(kind: ChannelType) -> tuple[int, int]:
    """Ours and theirs; ours does not block."""
    if kind is ChannelType.TERMINAL:
        first, second = socket.socketpair()
        ours, theirs = first.detach(), second.detach()
    else:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        ours, theirs = (read_end, write_end) if kind is ChannelType.SINK else (write_end, read_end)
    os.set_blocking(ours, False)
    return ours, theirs
