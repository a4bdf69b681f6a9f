"""The channel to one microVM: a unix socket, at whose other end is a serial port of the guest.

Descriptors that come with messages are real ones here: pipes and socket pairs that stand for those in the guest
(:mod:`cube.cubelet.runtime.microvm.conduits`); files and watches are reached by requests.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from cube.cubelet.runtime.guest.link import Handle, Inotify, Link, Listener, Message
from cube.cubelet.runtime.guest.wire import Kind, Reader, WireError, Writer
from cube.cubelet.runtime.microvm.conduits import Conduit
from cube.cubelet.runtime.microvm.frames import ChannelType
from cube.cubelet.runtime.microvm.handles import Ask, ChannelHandle, ChannelInotify
from cube.cubelet.runtime.microvm.mux import Mux
from cube.cubelet.runtime.microvm.mux_events import Closed, Data, Ended, Event, Received, Room, Started
from cube.model.errors import Unavailable

#: Seconds between two askings of a guest that does not begin a session, such as one that still boots.
ASK_SECONDS = 0.5
#: Bytes that may wait until the guest reads them.
_MAX_UNSENT = 32 * 1024 * 1024
_CONNECT_SECONDS = 0.02
_SIGKILL = 9
_RESOURCES = 5

#: How a guest is reached: the socket that its machine listens at, or a connection to it, which is used up.
Door = Path | socket.socket


class _Port(asyncio.Protocol):
    """Tells a link what happens on its connection."""

    def __init__(self, link: PortLink) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: those of uvloop are transports without being derived from asyncio's.
        self._link._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._link._receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link._lost()


class PortLink(Link):
    """Implements ``Link``. :meth:`connect` first; after :meth:`detach`, :meth:`connect` goes on where it was."""

    #: The relay in the guest has the upper byte for itself.
    max_id = 0xFF_FFFF
    _listener: Listener

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._mux = Mux()
        self._conduits: dict[int, Conduit] = {}
        self._transport: asyncio.WriteTransport | None = None
        self._started: asyncio.Future[None] | None = None
        self._flushing = False
        self._closed = False
        #: How a request to the guest is sent and awaited; set by whoever makes requests.
        self.ask: Ask | None = None

    async def connect(self, door: Door, seconds: float) -> None:
        """Begin a session with the guest behind a socket that may still have to appear, or over one that is connected.

        Raises ``Unavailable`` when there is none after ``seconds``, and ``ConnectionError`` when the guest ends
        meanwhile or breaks the rules.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._open(door)
                await self._begin()
        except TimeoutError:
            self.close()
            raise Unavailable(f"the guest did not answer within {seconds:g} seconds") from None
        except BaseException:
            self.close()
            raise

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def send(self, kind: int, request_id: int, body: bytes, attached: Sequence[Inotify] = ()) -> None:
        if self._transport is None:
            raise ConnectionError
        if self._mux.pending + self._transport.get_write_buffer_size() > _MAX_UNSENT:
            raise Unavailable("the sandbox is busy; try again")
        self._mux.send_message(kind, request_id, body, [_number_of(one) for one in attached])
        self._flush_soon()

    def detach(self) -> None:
        """End the session but keep what is open: pipes stay, and nothing that is under way in them is lost."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.detach()
        if self._started is not None and not self._started.done():
            self._started.set_exception(ConnectionError("the connection was closed"))
            self._started.exception()
        for conduit in self._conduits.values():
            conduit.close()
        self._conduits.clear()

    # -- channels ------------------------------------------------------------------------------------------------

    def follow(self, number: int, kind: ChannelType, *, came: int, sent: int) -> Handle:
        """Take up a channel of an earlier session; raises ``WireError``, and ``OSError`` without descriptors."""
        self._mux.open(number, kind, came=came, sent=sent)
        handle = self._handle(number, kind)
        self._mux.attach(number)
        self._flush_soon()
        return handle

    def drop(self, number: int) -> None:
        """Close a channel of an earlier session that nobody wants."""
        self._mux.drop(number)
        self._flush_soon()

    def has(self, number: int) -> bool:
        """Whether a channel is open here."""
        return self._mux.has(number)

    def number_of(self, fd: int) -> int | None:
        """The channel behind a pipe that was taken from a handle; ``None`` when it is closed."""
        status = os.fstat(fd)
        for number, conduit in self._conduits.items():
            if conduit.identity == (status.st_dev, status.st_ino):
                return number
        return None

    def close_channel(self, number: int) -> None:
        """Close it in the guest."""
        self._conduits.pop(number, None)
        self._mux.close(number)
        self._flush_soon()

    # -- inside --------------------------------------------------------------------------------------------------

    async def _open(self, door: Door) -> None:
        if isinstance(door, socket.socket):
            await self._loop.create_unix_connection(lambda: _Port(self), sock=door)
            return
        while True:
            try:
                await self._loop.create_unix_connection(lambda: _Port(self), str(door))
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(_CONNECT_SECONDS)
            else:
                return

    async def _begin(self) -> None:
        self._started = self._loop.create_future()
        self._mux.begin()
        while not self._started.done():
            self._flush()
            await asyncio.wait((self._started,), timeout=ASK_SECONDS)
            if not self._started.done():
                self._mux.ask()
        self._started.result()
        for number in self._mux.channels():
            if number in self._conduits:
                self._conduits[number].rewind()
            self._mux.attach(number)
        self._flush_soon()

    def _receive(self, data: bytes) -> None:
        try:
            for event in self._mux.feed(data):
                self._take(event)
                if self._closed:
                    return
        except WireError as error:
            self._end(error)
        self._flush_soon()

    def _lost(self) -> None:
        if self._transport is not None:
            self._end(None)

    def _end(self, reason: WireError | OSError | None) -> None:
        begun = self._started is not None and self._started.done()
        self.close()
        if begun:
            self._listener.lost(reason)

    def _take(self, event: Event) -> None:
        match event:
            case Received():
                self._received(event)
            case Started():
                if self._started is not None and not self._started.done():
                    self._started.set_result(None)
            case _:
                conduit = self._conduits.get(event.channel)
                if conduit is not None:
                    self._about(event, conduit)

    def _about(self, event: Data | Room | Ended | Closed, conduit: Conduit) -> None:
        match event:
            case Data(data=data):
                conduit.deliver(data)
            case Room():
                conduit.resume()
            case Ended():
                conduit.finish()
            case Closed(channel=number):
                del self._conduits[number]
                conduit.close()

    def _received(self, event: Received) -> None:
        handles: list[Handle] = []
        try:
            for number, kind in event.channels:
                handles.append(self._handle(number, kind))
        except OSError as error:
            self._refuse(event, error)
            return
        self._listener.deliver(Message(event.kind, event.id, event.body, handles))

    def _refuse(self, event: Received, error: OSError) -> None:
        """The host has no descriptors left for what came: as if the guest had had none."""
        for number, _ in event.channels:
            if (conduit := self._conduits.pop(number, None)) is not None:
                conduit.close()
            self._mux.close(number)
        if event.kind == Kind.SPAWNED:
            pid = Reader(event.body).u32()
            self._mux.send_message(Kind.SIGNAL, 0, Writer().u32(pid).u32(_SIGKILL).finish())
        number = error.errno or errno.EMFILE
        body = Writer().i32(number).u32(_RESOURCES).data(b"").finish()
        self._listener.deliver(Message(Kind.ERROR, event.id, body))

    def _handle(self, number: int, kind: ChannelType) -> ChannelHandle:
        if kind is ChannelType.FILE:
            return ChannelHandle(self, number, kind, None)
        conduit = Conduit(kind, _ChannelFlow(self, self._mux, number))
        self._conduits[number] = conduit
        return ChannelHandle(self, number, kind, conduit)

    def _flush_soon(self) -> None:
        """Everything of one turn of the loop goes out in one write."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is not None and self._mux.pending:
            self._transport.write(self._mux.take_output())


class _ChannelFlow:
    """What a conduit does to its channel."""

    def __init__(self, link: PortLink, mux: Mux, number: int) -> None:
        self._link = link
        self._mux = mux
        self._number = number

    def room(self) -> int:
        return self._mux.room(self._number)

    def send(self, data: bytes) -> None:
        self._mux.send_data(self._number, data)
        self._link._flush_soon()

    def written_out(self) -> None:
        self._mux.end(self._number)
        self._link._conduits.pop(self._number, None)
        self._link._flush_soon()

    def delivered(self, size: int) -> None:
        self._mux.confirm(self._number, size)
        self._link._flush_soon()

    def left(self) -> None:
        self._link.close_channel(self._number)


def _number_of(inotify: Inotify) -> int:
    if not isinstance(inotify, ChannelInotify):
        raise TypeError("a watch of another kind of sandbox")
    return inotify.number
