"""The aggregated discovery service on a unix socket: the I/O around ``delta`` (the protocol) and ``grpc_stream``."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from envoy.service.discovery.v3 import discovery_pb2

from cube.proxy import connections
from cube.proxy.delta import Accepted, Catalogue, DeltaSession, Event, Rejected, Request, Resource, Response
from cube.proxy.grpc_stream import Closed, ConnectionLost, GrpcConnection, Opened, Received

_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_READ_BYTES = 256 * 1024

Receipt = Accepted | Rejected


class XdsServer:
    """Serves one catalogue to every client that connects. ``on_receipt`` hears what clients accepted or refused."""

    def __init__(self, catalogue: Catalogue, on_receipt: Callable[[Receipt], None]) -> None:
        self._catalogue = catalogue
        self._on_receipt = on_receipt
        self._clients: set[_Client] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Serve until cancelled; clients keep what they have."""
        await connections.serve(listener, self._converse)

    def put(self, resource: Resource) -> None:
        """Add or replace a resource and tell the clients."""
        self._catalogue.put(resource)
        self._announce(resource.type_url, [resource.name])

    def drop(self, type_url: str, name: str) -> None:
        """Remove a resource and tell the clients."""
        self._catalogue.drop(type_url, name)
        self._announce(type_url, [name])

    def in_force(self, resource: Resource) -> bool:
        """Whether a client has confirmed that it uses this very version."""
        held = (client.held(resource.type_url, resource.name) for client in self._clients)
        return any(resource.version in versions for versions in held)

    def forgotten(self, type_url: str, name: str) -> bool:
        """Whether no client has the resource any more, as far as they have said."""
        return not any(client.held(type_url, name) for client in self._clients)

    def _announce(self, type_url: str, names: list[str]) -> None:
        for client in self._clients:
            client.announce(type_url, names)

    async def _converse(self, peer: socket.socket) -> None:
        client = _Client(peer, self._catalogue, self._on_receipt)
        self._clients.add(client)
        try:
            await client.run()
        finally:
            self._clients.discard(client)


class _Client:
    """One connection and the sessions of its streams."""

    def __init__(self, peer: socket.socket, catalogue: Catalogue, on_receipt: Callable[[Receipt], None]) -> None:
        self._peer = peer
        self._catalogue = catalogue
        self._on_receipt = on_receipt
        self._connection = GrpcConnection(_METHOD)
        self._sessions: dict[int, DeltaSession] = {}
        self._output = asyncio.Event()
        self._output.set()

    async def run(self) -> None:
        """Converse until the client hangs up."""
        writer = asyncio.create_task(self._write())
        try:
            await self._read()
        finally:
            writer.cancel()
            await asyncio.wait([writer])

    def announce(self, type_url: str, names: list[str]) -> None:
        """Tell every stream what changed for it."""
        for stream, session in self._sessions.items():
            response = session.changed(type_url, names)
            if response is not None:
                self._send(stream, response)

    def held(self, type_url: str, name: str) -> set[str]:
        """The versions that were confirmed on its streams, usually one."""
        versions = (session.holds(type_url, name) for session in self._sessions.values())
        return {version for version in versions if version is not None}

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._peer, _READ_BYTES):
            try:
                self._take(data)
            except ConnectionLost:
                await loop.sock_sendall(self._peer, self._connection.data_to_send())
                return

    def _take(self, data: bytes) -> None:
        for event in self._connection.receive(data):
            match event:
                case Opened(stream):
                    self._sessions[stream] = DeltaSession(self._catalogue)
                case Received(stream, message):
                    self._request(stream, message)
                case Closed(stream):
                    self._sessions.pop(stream, None)
        self._output.set()

    def _request(self, stream: int, message: bytes) -> None:
        if stream in self._sessions:
            for event in self._sessions[stream].receive(_decode(message)):
                self._answer(stream, event)

    def _answer(self, stream: int, event: Event) -> None:
        if isinstance(event, Response):
            self._send(stream, event)
        else:
            self._on_receipt(event)

    def _send(self, stream: int, response: Response) -> None:
        self._connection.send(stream, _encode(response))
        self._output.set()

    async def _write(self) -> None:
        """The only writer: bytes of two answers must not mix."""
        loop = asyncio.get_running_loop()
        while True:
            await self._output.wait()
            self._output.clear()
            await loop.sock_sendall(self._peer, self._connection.data_to_send())


def _decode(data: bytes) -> Request:
    message = discovery_pb2.DeltaDiscoveryRequest.FromString(data)
    return Request(
        type_url=message.type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
    )


def _encode(response: Response) -> bytes:
    message = discovery_pb2.DeltaDiscoveryResponse(
        type_url=response.type_url, nonce=response.nonce, removed_resources=response.removed
    )
    for resource in response.resources:
        entry = message.resources.add(name=resource.name, version=resource.version)
        entry.resource.type_url = resource.type_url
        entry.resource.value = resource.body
    return bytes(message.SerializeToString())
