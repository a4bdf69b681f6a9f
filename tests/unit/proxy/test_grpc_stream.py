"""gRPC streams over HTTP/2, against the client side of the same HTTP/2 library."""

from __future__ import annotations

import struct

import h2.connection
import h2.events
import pytest

from cube.proxy.grpc_stream import Closed, ConnectionLost, Event, GrpcConnection, Opened, Received

METHOD = "/test.Service/Talk"


def framed(message: bytes, compressed: int = 0) -> bytes:
    return struct.pack("!BI", compressed, len(message)) + message


class Pair:
    """A client and the connection under test, with the bytes carried between them."""

    def __init__(self) -> None:
        self.client = h2.connection.H2Connection()
        self.client.initiate_connection()
        self.server = GrpcConnection(METHOD)
        self.exchange()

    def call(self, method: str = METHOD) -> int:
        stream = int(self.client.get_next_available_stream_id())
        headers = [
            (":method", "POST"),
            (":path", method),
            (":scheme", "http"),
            (":authority", "xds"),
            ("te", "trailers"),
        ]
        self.client.send_headers(stream, headers)
        return stream

    def to_server(self) -> list[Event]:
        return self.server.receive(self.client.data_to_send())

    def to_client(self) -> list[h2.events.Event]:
        data = self.server.data_to_send()
        return list(self.client.receive_data(data)) if data else []

    def exchange(self) -> list[Event]:
        events = self.to_server()
        self.to_client()
        return events


@pytest.fixture
def pair() -> Pair:
    return Pair()


def body(events: list[h2.events.Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))


def test_call_is_opened_and_answered_with_headers_at_once(pair: Pair) -> None:
    stream = pair.call()
    assert pair.to_server() == [Opened(stream)]
    (answer,) = [event for event in pair.to_client() if isinstance(event, h2.events.ResponseReceived)]
    assert dict(answer.headers)[b"content-type"] == b"application/grpc"


def test_message_comes_whole_however_it_is_cut(pair: Pair) -> None:
    stream = pair.call()
    for byte in framed(b"hello") + framed(b""):
        pair.client.send_data(stream, bytes([byte]))
    data = pair.client.data_to_send()
    events = [event for position in range(len(data)) for event in pair.server.receive(data[position : position + 1])]
    assert events == [Opened(stream), Received(stream, b"hello"), Received(stream, b"")]


def test_messages_go_both_ways_on_two_streams(pair: Pair) -> None:
    one, two = pair.call(), pair.call()
    pair.exchange()
    pair.server.send(two, b"for two")
    pair.server.send(one, b"for one")
    events = pair.to_client()
    got = {event.stream_id: event.data for event in events if isinstance(event, h2.events.DataReceived)}
    assert got == {one: framed(b"for one"), two: framed(b"for two")}


def test_large_answer_waits_for_the_window(pair: Pair) -> None:
    stream = pair.call()
    pair.exchange()
    message = bytes(range(256)) * 4096
    pair.server.send(stream, message)
    first = body(pair.to_client())
    assert 0 < len(first) < len(message)
    got = first
    while len(got) < len(message) + 5:
        pair.client.increment_flow_control_window(32768)
        pair.client.increment_flow_control_window(32768, stream)
        assert pair.to_server() == []
        part = body(pair.to_client())
        assert part
        got += part
    assert got == framed(message)


def test_large_request_is_read_on_and_on(pair: Pair) -> None:
    stream = pair.call()
    data, received = framed(b"x" * 3_000_000), []
    while data:
        size = min(len(data), pair.client.local_flow_control_window(stream), pair.client.max_outbound_frame_size)
        assert size > 0, "the window was opened again"
        pair.client.send_data(stream, data[:size])
        data = data[size:]
        received += pair.exchange()
    assert received[-1] == Received(stream, b"x" * 3_000_000)


def test_unknown_method_is_refused(pair: Pair) -> None:
    pair.call("/test.Service/Other")
    assert pair.to_server() == []
    events = pair.to_client()
    (answer,) = [event for event in events if isinstance(event, h2.events.ResponseReceived)]
    assert dict(answer.headers)[b"grpc-status"] == b"12"
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)


@pytest.mark.parametrize("how", ["end_stream", "reset_stream"])
def test_end_of_a_stream_is_told_and_sending_is_harmless_then(pair: Pair, how: str) -> None:
    stream = pair.call()
    pair.exchange()
    getattr(pair.client, how)(stream)
    assert pair.to_server() == [Closed(stream)]
    pair.server.send(stream, b"too late")
    assert body(pair.to_client()) == b""


def test_compressed_message_is_refused(pair: Pair) -> None:
    stream = pair.call()
    pair.client.send_data(stream, framed(b"x", compressed=1))
    with pytest.raises(ConnectionLost, match="compressed"):
        pair.to_server()


def test_message_beyond_the_limit_is_refused_before_it_arrives(pair: Pair) -> None:
    stream = pair.call()
    pair.client.send_data(stream, struct.pack("!BI", 0, 2**32 - 1))
    with pytest.raises(ConnectionLost, match="too long"):
        pair.to_server()


def test_what_is_not_http2_ends_the_connection() -> None:
    with pytest.raises(ConnectionLost):
        GrpcConnection(METHOD).receive(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")


def test_goodbye_ends_the_connection(pair: Pair) -> None:
    pair.client.close_connection()
    with pytest.raises(ConnectionLost):
        pair.to_server()
