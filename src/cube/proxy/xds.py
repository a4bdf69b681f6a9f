"""The aggregated discovery service on a unix socket: gRPC around :mod:`cube.proxy.delta`.

Importing this module loads gRPC: 0.2 s and 30 MB. Nothing on the path of a request does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc.aio  # type: ignore[import-untyped]
from envoy.service.discovery.v3 import discovery_pb2  # type: ignore[import-untyped]

from cube.proxy import sockets
from cube.proxy.delta import Accepted, Catalogue, DeltaSession, Event, Rejected, Request, Resource, Response

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_GRACE_SECONDS = 0.1
#: Clients resend their whole state in one message when they come back.
_OPTIONS = [("grpc.max_receive_message_length", 64 * 1024 * 1024), ("grpc.so_reuseport", 0)]


class XdsServer:
    """Serves one catalogue to every client that connects. ``on_receipt`` hears what clients accepted or refused."""

    def __init__(self, catalogue: Catalogue, on_receipt: Callable[[Accepted | Rejected], None]) -> None:
        self._catalogue = catalogue
        self._on_receipt = on_receipt
        self._streams: set[_Stream] = set()
        self._server: grpc.aio.Server | None = None

    async def start(self, path: Path, uid: int) -> None:
        """Listen; only root and ``uid`` may connect."""
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers([self._handlers()])
        self._server.add_insecure_port(f"unix:{path}")
        await self._server.start()
        sockets.share(path, uid)

    async def close(self) -> None:
        """Stop serving; clients keep what they have."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(_GRACE_SECONDS)

    def put(self, resource: Resource) -> None:
        """Add or replace a resource and tell the clients."""
        self._catalogue.put(resource)
        self._announce(resource.type_url)

    def drop(self, type_url: str, name: str) -> None:
        """Remove a resource and tell the clients."""
        self._catalogue.drop(type_url, name)
        self._announce(type_url)

    def _announce(self, type_url: str) -> None:
        for stream in self._streams:
            stream.announce(type_url)

    def _handlers(self) -> grpc.GenericRpcHandler:
        delta = grpc.stream_stream_rpc_method_handler(
            self._converse, request_deserializer=_decode, response_serializer=_encode
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"DeltaAggregatedResources": delta})

    async def _converse(self, requests: AsyncIterator[Request], _: object) -> AsyncIterator[Response]:
        """One stream of one client."""
        stream = _Stream(DeltaSession(self._catalogue), self._on_receipt)
        self._streams.add(stream)
        reader = asyncio.create_task(stream.read(requests))
        try:
            while (response := await stream.outbox.get()) is not None:
                yield response
        finally:
            self._streams.discard(stream)
            reader.cancel()
            await asyncio.wait([reader])


class _Stream:
    """A session with the queue of what goes out; ``None`` in it is the end."""

    def __init__(self, session: DeltaSession, on_receipt: Callable[[Accepted | Rejected], None]) -> None:
        self._session = session
        self._on_receipt = on_receipt
        self.outbox: asyncio.Queue[Response | None] = asyncio.Queue()

    async def read(self, requests: AsyncIterator[Request]) -> None:
        try:
            async for request in requests:
                for event in self._session.receive(request):
                    self._take(event)
        finally:
            self.outbox.put_nowait(None)

    def announce(self, type_url: str) -> None:
        response = self._session.changed(type_url)
        if response is not None:
            self.outbox.put_nowait(response)

    def _take(self, event: Event) -> None:
        if isinstance(event, Response):
            self.outbox.put_nowait(event)
        else:
            self._on_receipt(event)


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
