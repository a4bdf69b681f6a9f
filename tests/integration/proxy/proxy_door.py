"""A real Envoy in front of real servers: API and envd on unix sockets, "sandboxes" on loopback addresses."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from cube.model.errors import PermissionDenied
from cube.proxy.inbound import CubeProxy
from cube.proxy.routes import Gone, Route
from cube.settings import Settings

CHUNK = b"\0" * 65536


@dataclass
class Upstream:
    """An HTTP server that says what it was asked, streams, and counts."""

    name: str
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        first, _, rest = scope["path"].removeprefix("/").partition("/")
        handler = getattr(self, f"do_{first}", self.do_show)
        await handler(scope, receive, send, rest)

    async def do_show(self, scope: dict[str, Any], receive: Any, send: Any, rest: str) -> None:
        headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
        seen = {"server": self.name, "method": scope["method"], "path": scope["raw_path"].decode(), "headers": headers}
        await _start(send)
        await _chunk(send, json.dumps(seen).encode(), more=False)

    async def do_bytes(self, scope: dict[str, Any], receive: Any, send: Any, rest: str) -> None:
        await _start(send)
        for _ in range(int(rest) // len(CHUNK)):
            await _chunk(send, CHUNK)
        await _chunk(send, b"", more=False)

    async def do_count(self, scope: dict[str, Any], receive: Any, send: Any, rest: str) -> None:
        total = 0
        async for body in _body(receive):
            total += len(body)
        await _start(send)
        await _chunk(send, json.dumps(total).encode(), more=False)

    async def do_echo(self, scope: dict[str, Any], receive: Any, send: Any, rest: str) -> None:
        await _start(send)
        async for body in _body(receive):
            await _chunk(send, body)
        await _chunk(send, b"", more=False)

    async def do_events(self, scope: dict[str, Any], receive: Any, send: Any, rest: str) -> None:
        await _start(send, b"text/event-stream")
        await _chunk(send, b"data: first\n\n")
        await self.gate.wait()
        await _chunk(send, b"data: second\n\n", more=False)


async def _start(send: Any, kind: bytes = b"application/octet-stream") -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})


async def _chunk(send: Any, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _body(receive: Any) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


@asynccontextmanager
async def serving(listener: socket.socket, app: Any) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


@contextmanager
def tcp_listener(address: str, port: int = 0, backlog: int = 128) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(backlog)
        yield listener


def free_port() -> int:
    with tcp_listener("127.0.0.1") as listener:
        return int(listener.getsockname()[1])


class Known:
    """What the cubelet will be: it knows the sandboxes that ended, and running ones that the proxy was not told of."""

    def __init__(self) -> None:
        self.answers: dict[str, Route | Gone] = {}
        self.asked: list[str] = []
        self.tokens: dict[str, str] = {}

    async def lookup(self, sandbox_id: str, token: str = "") -> Route | Gone | None:
        self.asked.append(sandbox_id)
        if self.tokens.get(sandbox_id, token) != token:
            raise PermissionDenied("closed")
        return self.answers.get(sandbox_id)


def settings_in(run_dir: Path, **more: Any) -> Settings:
    values = {"instance": "pxtest", "run_dir": run_dir, "port": free_port(), "network_cidr": "127.64.0.0/16", **more}
    return Settings(**values)


@dataclass
class Door:
    """The running proxy and what stands behind it."""

    settings: Settings
    proxy: CubeProxy
    known: Known
    client: httpx.AsyncClient

    def host(self, port: int, sandbox_id: str) -> dict[str, str]:
        """The header that names a sandbox by host."""
        return {"host": f"{port}-{sandbox_id}.{self.settings.public_domain}"}


@asynccontextmanager
async def opened(run_dir: Path, **more: Any) -> AsyncIterator[Door]:
    settings, known = settings_in(run_dir, **more), Known()
    proxy = CubeProxy(settings, known)
    await proxy.start()
    try:
        async with httpx.AsyncClient(base_url=settings.public_url, timeout=10) as client:
            yield Door(settings, proxy, known, client)
    finally:
        await proxy.close()


@asynccontextmanager
async def services(settings: Settings) -> AsyncIterator[None]:
    """API and envd, on sockets of their own making, as the other rooms do it."""
    with socket.socket(socket.AF_UNIX) as api, socket.socket(socket.AF_UNIX) as envd:
        for listener, path in ((api, settings.api_socket), (envd, settings.envd_socket)):
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            path.chmod(0o666)
            listener.listen()
        async with serving(api, Upstream("api")), serving(envd, Upstream("envd")):
            yield


@dataclass
class Box:
    """A sandbox: an id, an address, and a server on one port."""

    sandbox_id: str
    address: str
    port: int
    upstream: Upstream
