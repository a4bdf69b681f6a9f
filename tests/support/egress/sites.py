"""Servers of the test's internet: HTTP/1.1, HTTP/2 and gRPC, WebSocket and server-sent events, with and without TLS."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import hashlib
import json
import socket
import ssl
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h2.config
import h2.connection
import h2.events
import h11

from cube.egress.ca import LEAF_LIFE, Authority, open_authority

CHUNK = b"x" * 65536


@dataclass
class Seen:
    """A request as a server saw it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    scheme: str
    version: str
    #: Name of the TLS handshake.
    sni: str | None
    body: bytes = b""
    #: Address that the client connected to.
    address: str = ""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def get(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    def told(self) -> bytes:
        fields = {"method": self.method, "target": self.target, "headers": self.headers, "version": self.version}
        more = {"scheme": self.scheme, "sni": self.sni, "body": self.body.decode("latin-1"), "address": self.address}
        return json.dumps(fields | more).encode()


@dataclass
class Internet:
    """All servers of a test, on every address of their namespace: who is meant is told by the address dialled."""

    authority: Authority
    seen: list[Seen] = field(default_factory=list)
    #: Names whose servers show a certificate of somebody else.
    impostors: set[str] = field(default_factory=set)
    #: Names that do not speak HTTP/2.
    old: set[str] = field(default_factory=set)
    #: Names whose certificates are signed by somebody whom nobody trusts.
    forged: dict[str, Authority] = field(default_factory=dict)
    #: Names whose certificates are too old.
    expired: set[str] = field(default_factory=set)

    def clear(self) -> None:
        self.seen.clear()

    def targets(self) -> list[str]:
        return [one.target for one in self.seen]

    @asynccontextmanager
    async def serving(self, listen: Callable[[int], socket.socket], tls: Iterable[int], plain: Iterable[int]) -> Any:
        """Serve ports; ``listen`` makes the sockets."""
        servers = [await asyncio.start_server(self._converse, sock=listen(port)) for port in plain]
        for port in tls:
            servers.append(await asyncio.start_server(self._converse, sock=listen(port), ssl=self._context()))
        try:
            yield self
        finally:
            for server in servers:
                server.close()

    def _context(self) -> ssl.SSLContext:
        contexts: dict[str, ssl.SSLContext] = {}

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            connection.cube_sni = name  # type: ignore[attr-defined]
            shown = "impostor.test" if name in self.impostors else name or "203.0.113.10"
            key = f"{shown} {name in self.old} {name in self.forged} {name in self.expired}"
            if key not in contexts:
                minted = dt.datetime.now(dt.UTC) - (2 * LEAF_LIFE if name in self.expired else dt.timedelta(0))
                signer = self.forged.get(name or "", self.authority)
                contexts[key] = server_context(signer, shown, old=name in self.old, minted=minted)
            connection.context = contexts[key]

        context = server_context(self.authority, "default.test")
        context.sni_callback = choose
        return context

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        secured: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        about = {
            "scheme": "https" if secured else "http",
            "sni": getattr(secured, "cube_sni", None) if secured else None,
            "address": writer.get_extra_info("sockname")[0],
        }
        try:
            if secured is not None and secured.selected_alpn_protocol() == "h2":
                await _Http2(self, reader, writer, about).run()
            else:
                await _Http1(self, reader, writer, about).run()
        except (ConnectionError, h11.RemoteProtocolError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()


def server_context(
    authority: Authority, name: str, *, old: bool = False, minted: dt.datetime | None = None
) -> ssl.SSLContext:
    """TLS of a server with a certificate for a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"] if old else ["h2", "http/1.1"])
    with tempfile.NamedTemporaryFile() as file:
        file.write(authority.mint(name, minted) + authority.leaf_key_pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def authority_at(directory: Path) -> Authority:
    return open_authority(directory)


class _Http1:
    """HTTP/1.1 as the standard has it."""

    def __init__(
        self, internet: Internet, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, about: dict[str, Any]
    ) -> None:
        self._internet, self._reader, self._writer, self._about = internet, reader, writer, about
        self._connection = h11.Connection(h11.SERVER)

    async def run(self) -> None:
        while isinstance(request := await self._next(), h11.Request):
            headers = [(name.decode().lower(), value.decode("latin-1")) for name, value in request.headers]
            seen = Seen(request.method.decode(), request.target.decode(), headers, version="1.1", **self._about)
            self._internet.seen.append(seen)
            if (seen.get("upgrade") or "").lower() == "websocket":
                await _websocket(seen, self._connection, self._reader, self._writer)
                return
            if seen.get("expect"):
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            await self._answer(seen, await self._read_body(seen))
            if (self._connection.our_state, self._connection.their_state) != (h11.DONE, h11.DONE):
                return
            self._connection.start_next_cycle()

    async def _next(self) -> Any:
        while (event := self._connection.next_event()) is h11.NEED_DATA:
            self._connection.receive_data(await self._reader.read(1 << 20))
        return event

    async def _send(self, *events: Any) -> None:
        for event in events:
            self._writer.write(self._connection.send(event) or b"")
        await self._writer.drain()

    async def _read_body(self, seen: Seen) -> int:
        size, body = 0, bytearray()
        while isinstance(event := await self._next(), h11.Data):
            size += len(event.data)
            if len(body) < 1 << 20:
                body += event.data
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionResetError
        seen.body = bytes(body)
        return size

    async def _answer(self, seen: Seen, size: int) -> None:
        answer = _answer(seen, size)
        length = [("content-length", str(answer.length))] if answer.length is not None else []
        await self._send(h11.Response(status_code=answer.status, headers=[*answer.headers, *length]))
        if seen.method != "HEAD":
            async for part in answer.parts:
                await self._send(h11.Data(data=part))
        await self._send(h11.EndOfMessage())


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    parts: AsyncIterator[bytes]
    length: int | None = None


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _many(size: int) -> AsyncIterator[bytes]:
    while size > 0:
        yield CHUNK[:size]
        size -= len(CHUNK)


async def _events(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield f"data: {number}\n\n".encode()
        await asyncio.sleep(0.1)


def _answer(seen: Seen, size: int) -> Answer:
    parts = urlsplit(seen.target)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    kind, _, argument = parts.path.lstrip("/").partition("/")
    if kind == "bytes":
        return Answer(200, [], _many(int(argument)), int(argument))
    if kind == "chunked":
        return Answer(200, [], _many(int(argument)))
    if kind == "count":
        body = str(size).encode()
        return Answer(200, [], _whole(body), len(body))
    if kind == "events":
        return Answer(200, [("content-type", "text/event-stream")], _events(int(argument)))
    if kind == "redirect":
        return Answer(302, [("location", query["to"])], _whole(b""), 0)
    if kind == "status":
        return Answer(int(argument), [("server", "upstream")], _whole(b"upstream says so"))
    if kind == "json":
        body = query["body"].encode()
        return Answer(200, [("content-type", "application/json")], _whole(body), len(body))
    if kind == "gzip":
        body = gzip.compress(query["body"].encode())
        encoded = [("content-type", "application/json"), ("content-encoding", "gzip")]
        return Answer(200, encoded, _whole(body), len(body))
    body = seen.told()
    return Answer(200, [("content-type", "application/json")], _whole(body), len(body))


async def _websocket(
    seen: Seen, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Echoes frames as they come."""
    key = (seen.get("sec-websocket-key") or "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = b64encode(hashlib.sha1(key.encode()).digest()).decode()
    headers = [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-accept", accept)]
    connection.next_event()
    writer.write(connection.send(h11.InformationalResponse(status_code=101, headers=headers)) or b"")
    while True:
        head = await reader.readexactly(2)
        length = head[1] & 0x7F
        if length == 126:
            length = int.from_bytes(await reader.readexactly(2), "big")
        mask = await reader.readexactly(4)
        data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(await reader.readexactly(length)))
        if head[0] & 0x0F == 8:
            return
        size = bytes([length]) if length < 126 else b"\x7e" + length.to_bytes(2, "big")
        writer.write(head[:1] + size + data)
        await writer.drain()


class _Http2:
    """HTTP/2: the answers of HTTP/1.1, and gRPC's streams echoed message by message."""

    def __init__(
        self, internet: Internet, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, about: dict[str, Any]
    ) -> None:
        self._internet, self._reader, self._writer, self._about = internet, reader, writer, about
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._requests: dict[int, Seen] = {}
        self._sizes: dict[int, int] = {}
        self._window = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        self._http.initiate_connection()
        self._flush()
        while data := await self._reader.read(65536):
            for event in self._http.receive_data(data):
                self._handle(event)
            self._flush()
            self._window.set()
            await self._writer.drain()

    def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())

    def _handle(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
            pseudo = {name: value for name, value in fields if name.startswith(":")}
            headers = [("host", pseudo.get(":authority", "")), *(item for item in fields if item[0] not in pseudo)]
            seen = Seen(pseudo[":method"], pseudo[":path"], headers, version="2", **self._about)
            self._requests[event.stream_id], self._sizes[event.stream_id] = seen, 0
            self._internet.seen.append(seen)
            if self._is_grpc(seen):
                self._http.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
        elif isinstance(event, h2.events.DataReceived):
            self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            seen = self._requests[event.stream_id]
            self._sizes[event.stream_id] += len(event.data)
            if self._is_grpc(seen):
                self._http.send_data(event.stream_id, event.data)
            elif len(seen.body) < 1 << 20:
                seen.body += event.data
        elif isinstance(event, h2.events.StreamEnded):
            task = asyncio.create_task(self._finish(event.stream_id, self._requests[event.stream_id]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @staticmethod
    def _is_grpc(seen: Seen) -> bool:
        return (seen.get("content-type") or "").startswith("application/grpc")

    async def _finish(self, stream: int, seen: Seen) -> None:
        if self._is_grpc(seen):
            self._http.send_headers(stream, [("grpc-status", "0")], end_stream=True)
            self._flush()
            return
        answer = _answer(seen, self._sizes[stream])
        self._http.send_headers(stream, [(":status", str(answer.status)), *answer.headers])
        self._flush()
        async for part in answer.parts:
            await self._send(stream, part)
        self._http.end_stream(stream)
        self._flush()

    async def _send(self, stream: int, data: bytes) -> None:
        while data:
            room = min(self._http.local_flow_control_window(stream), self._http.max_outbound_frame_size, len(data))
            if room > 0:
                self._http.send_data(stream, data[:room])
                data = data[room:]
                self._flush()
                await self._writer.drain()
            else:
                self._window.clear()
                await self._window.wait()
