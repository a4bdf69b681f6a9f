"""A client in a sandbox that can say what well-behaved clients do not."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.settings
import h11

from cube.egress.ca import Authority
from support.egress.namespaces import Namespace

_PATIENCE = 20.0


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    #: Who signed the certificate that was shown.
    issuer: str = ""
    trailers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str | None:
        """Of a refusal."""
        try:
            return str(self.json["reason"])
        except (ValueError, KeyError, TypeError):
            return None

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name.lower()), None)


class Client:
    """Makes connections from a namespace."""

    def __init__(
        self,
        namespace: Namespace,
        authority: Authority,
        names: dict[str, str],
        *,
        alpn: Iterable[str] = ("http/1.1",),
    ) -> None:
        self._namespace = namespace
        self._names = names
        self._context = ssl.create_default_context(cadata=authority.certificate_pem.decode())
        self._context.set_alpn_protocols(list(alpn))

    async def connect(
        self, host: str, port: int, *, tls: bool, sni: str | None = None, address: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection; ``sni`` and ``address`` are those of ``host`` unless they are given."""
        connection = self._namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        connection.setblocking(False)
        try:
            async with asyncio.timeout(_PATIENCE):
                where = address or self._names.get(host, host)
                await asyncio.get_running_loop().sock_connect(connection, (where, port))
                secured = {"ssl": self._context, "server_hostname": sni or host} if tls else {}
                return await asyncio.open_connection(sock=connection, limit=1 << 22, **secured)
        except BaseException:
            connection.close()
            raise

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        host: str | None = None,
        target: str | None = None,
        **connection: Any,
    ) -> Reply:
        """One HTTP/1.1 request on a connection of its own."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        reader, writer = await self.connect(parts.hostname or "", port, tls=tls, **connection)
        try:
            sent = target or (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            fields = [("host", parts.netloc if host is None else host), *headers]
            if body and not any(name.lower() == "transfer-encoding" for name, _ in fields):
                fields.append(("content-length", str(len(body))))
            async with asyncio.timeout(_PATIENCE):
                return await converse(reader, writer, method, sent, fields, body)
        finally:
            writer.close()

    async def attempt(self, url: str, **request: Any) -> Reply:
        """A GET that may be hung up on; the status is 0 then."""
        try:
            return await self.request("GET", url, **request)
        except (ConnectionError, h11.RemoteProtocolError):
            return Reply(0, [], b"")

    async def raw(self, url: str, data: bytes, *, wait: float = 5, **connection: Any) -> bytes:
        """Say these very bytes; returns all that comes back until the end or until nothing more comes."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        reader, writer = await self.connect(parts.hostname or "", port, tls=tls, **connection)
        received = bytearray()
        try:
            writer.write(data)
            while part := await asyncio.wait_for(reader.read(65536), wait):
                received += part
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.close()
        return bytes(received)


async def converse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    target: str,
    headers: list[tuple[str, str]],
    body: bytes = b"",
) -> Reply:
    """One request on an HTTP/1.1 connection."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    reply, body_parts = Reply(0, [], b"", issuer_of(writer)), []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(1 << 20))
        elif isinstance(event, h11.Response):
            reply.status = event.status_code
            reply.headers = [(name.decode().lower(), value.decode("latin-1")) for name, value in event.headers]
        elif isinstance(event, h11.Data):
            body_parts.append(bytes(event.data))
        elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
            reply.body = b"".join(body_parts)
            return reply


def issuer_of(writer: asyncio.StreamWriter) -> str:
    shown = writer.get_extra_info("peercert") or {}
    fields = dict(item for part in shown.get("issuer", ()) for item in part)
    return str(fields.get("commonName", ""))


_ENDS = (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)


async def http2(
    client: Client,
    url: str,
    headers: list[tuple[str, str]],
    body: bytes = b"",
    *,
    trust_me: bool = False,
    **connection: Any,
) -> Reply:
    """One HTTP/2 request whose header list, pseudo-headers included, is said as it stands."""
    parts = urlsplit(url)
    reader, writer = await client.connect(parts.hostname or "", parts.port or 443, tls=True, **connection)
    options = (
        {}
        if not trust_me
        else {
            "validate_outbound_headers": False,
            "normalize_outbound_headers": False,
        }
    )
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, **options))
    http.initiate_connection()
    http.send_headers(1, headers, end_stream=not body)
    if body:
        http.send_data(1, body, end_stream=True)
    writer.write(http.data_to_send())
    reply = Reply(0, [], b"", issuer_of(writer))
    try:
        async with asyncio.timeout(_PATIENCE):
            while data := await reader.read(65536):
                for event in http.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
                        reply.status = int(dict(fields)[":status"])
                        reply.headers = fields
                    elif isinstance(event, h2.events.DataReceived):
                        reply.body += event.data
                        http.acknowledge_received_data(event.flow_controlled_length, 1)
                    elif isinstance(event, h2.events.TrailersReceived):
                        reply.trailers = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
                    elif isinstance(event, _ENDS):
                        return reply
                writer.write(http.data_to_send())
            return reply
    finally:
        writer.close()
