"""The server side of gRPC's bidirectional streams over HTTP/2, without I/O and for one method.

gRPC's own Python library would do, at the price of 27 MB of memory, threads of its own, and crashes of the
interpreter when a server is cancelled while it starts or stops; Envoy needs little of it. HTTP/2 itself is left to
``h2``. Message framing: "gRPC over HTTP/2" in the documentation of gRPC.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

# At debug level hpack writes every header twice.
logging.getLogger("hpack").setLevel(logging.INFO)

_PREFIX = struct.Struct("!BI")
#: A client that comes back tells all that it has in one message.
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_WINDOW_BYTES = 1024 * 1024
_UNIMPLEMENTED = "12"


@dataclass(frozen=True, slots=True)
class Opened:
    """A client has called the method."""

    stream: int


@dataclass(frozen=True, slots=True)
class Received:
    """One message of a client."""

    stream: int
    message: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Closed:
    """The client has finished or given up a stream; nothing can be sent on it any more."""

    stream: int


Event = Opened | Received | Closed


class ConnectionLost(Exception):
    """The peer broke the protocol; send what :meth:`GrpcConnection.data_to_send` has left and hang up."""


@dataclass(slots=True)
class _Stream:
    incoming: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)


class GrpcConnection:
    """One connection. ``method`` is the path of the only method, ``/package.Service/Method``."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._http.initiate_connection()
        self._http.increment_flow_control_window(_WINDOW_BYTES)
        self._streams: dict[int, _Stream] = {}

    def receive(self, data: bytes) -> list[Event]:
        """Take in bytes; returns what they meant. Raises :class:`ConnectionLost`."""
        try:
            happened = self._http.receive_data(data)
            return [event for what in happened for event in self._interpret(what)]
        except h2.exceptions.ProtocolError as error:
            raise ConnectionLost(str(error)) from error

    def send(self, stream: int, message: bytes) -> None:
        """Queue a message; without such a stream it is dropped."""
        if stream in self._streams:
            self._streams[stream].outgoing += _PREFIX.pack(0, len(message)) + message
            self._pump(stream)

    def data_to_send(self) -> bytes:
        """Bytes for the peer, as far as its flow control allows."""
        return bytes(self._http.data_to_send())

    def _interpret(self, what: h2.events.Event) -> list[Event]:
        match what:
            case h2.events.RequestReceived():
                return self._open(what)
            case h2.events.DataReceived():
                return self._collect(what)
            case h2.events.StreamEnded() | h2.events.StreamReset():
                return self._close(what.stream_id or 0)
            case h2.events.ConnectionTerminated():
                raise ConnectionLost("the peer said goodbye")
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self._pump_all()
        return []

    def _open(self, request: h2.events.RequestReceived) -> list[Event]:
        stream = request.stream_id
        answer = [(":status", "200"), ("content-type", "application/grpc")]
        if dict(request.headers).get(b":path") != self._method.encode():
            self._http.send_headers(stream, [*answer, ("grpc-status", _UNIMPLEMENTED)], end_stream=True)
            return []
        self._http.send_headers(stream, answer)
        self._streams[stream] = _Stream()
        return [Opened(stream)]

    def _collect(self, what: h2.events.DataReceived) -> list[Event]:
        self._http.acknowledge_received_data(what.flow_controlled_length, what.stream_id)
        stream = self._streams.get(what.stream_id)
        if stream is None:
            return []
        stream.incoming += what.data
        return [Received(what.stream_id, message) for message in _messages(stream.incoming)]

    def _close(self, stream: int) -> list[Event]:
        if self._streams.pop(stream, None) is None:
            return []
        return [Closed(stream)]

    def _pump_all(self) -> None:
        for stream in self._streams:
            self._pump(stream)

    def _pump(self, stream: int) -> None:
        outgoing = self._streams[stream].outgoing
        while outgoing and (room := self._http.local_flow_control_window(stream)) > 0:
            size = min(room, len(outgoing), self._http.max_outbound_frame_size)
            self._http.send_data(stream, bytes(outgoing[:size]))
            del outgoing[:size]


def _messages(buffer: bytearray) -> list[bytes]:
    """Take the complete messages out of ``buffer``."""
    messages = []
    while len(buffer) >= _PREFIX.size:
        compressed, length = _PREFIX.unpack_from(buffer)
        if compressed or length > _MAX_MESSAGE_BYTES:
            raise ConnectionLost("a message is compressed or too long")
        end = _PREFIX.size + length
        if len(buffer) < end:
            break
        messages.append(bytes(buffer[_PREFIX.size : end]))
        del buffer[:end]
    return messages
