"""envd on a loopback port, with sandboxes of the test's own, and as much of the API as E2B's clients call on the way.

The unmodified client speaks to one URL for everything: requests with ``E2b-Sandbox-Id`` are for a sandbox and
get the header that the proxy would set; the others are for the API.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from cube.envd.app import SANDBOX_HEADER, create_envd_app
from cube.envd.asgi import Receive, Scope, Send, header, respond_json
from cube.envd.bulk import BulkServer
from cube.envd.guest import Guest
from cube.envd.sandboxes import EnvdSandbox
from cube.envd.version import ENVD_VERSION
from cube.model.errors import SandboxNotFound, SandboxNotRunning
from cube.model.resources import Resources, ResourceUsage
from cube.model.template import ImageConfig

TOKEN = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0"


def make_sandbox(guest: Guest, sandbox_id: str = "i1", **changes: Any) -> EnvdSandbox:
    """A sandbox around a guest."""
    values: dict[str, Any] = {
        "access_token": TOKEN,
        "default_user": "user",
        "default_workdir": "",
        "env_vars": {},
        "image": ImageConfig(),
        "resources": Resources(),
        "code_interpreter": False,
    }
    return EnvdSandbox(sandbox_id=sandbox_id, guest=guest, **(values | changes))


@dataclass
class Sandboxes:
    """The cubelet's view, for tests."""

    known: dict[str, EnvdSandbox] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    cpu_seconds: float = 0.0

    def add(self, sandbox: EnvdSandbox) -> EnvdSandbox:
        self.known[sandbox.sandbox_id] = sandbox
        return sandbox

    async def get(self, sandbox_id: str) -> EnvdSandbox:
        if sandbox_id not in self.known:
            raise SandboxNotFound(sandbox_id)
        if sandbox_id in self.paused:
            raise SandboxNotRunning(sandbox_id, "paused")
        return self.known[sandbox_id]

    def running(self) -> Iterable[EnvdSandbox]:
        return [sandbox for name, sandbox in self.known.items() if name not in self.paused]

    async def usage(self, sandbox_id: str) -> ResourceUsage:
        await self.get(sandbox_id)
        self.cpu_seconds += 0.01
        return ResourceUsage(self.cpu_seconds, 3 * 1024 * 1024, 1024 * 1024, 4096, 3)

    async def close_state(self, sandbox_id: str) -> None:
        """What the cubelet does when a sandbox stops."""
        for value in self.known[sandbox_id].state.values():
            close = getattr(value, "close", None)
            if close is not None:
                await close()


class Edge:
    """The part of proxy and API that the client needs to reach envd."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes
        self._envd = create_envd_app(sandboxes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._envd(scope, receive, send)
            return
        scope["headers"] = [(key, value) for key, value in scope["headers"] if key != SANDBOX_HEADER]
        if sandbox_id := header(scope, b"e2b-sandbox-id"):
            scope["headers"].append((SANDBOX_HEADER, sandbox_id.encode()))
        elif scope["path"].endswith("/connect") and scope["method"] == "POST":
            await self._connect(scope, send)
            return
        await self._envd(scope, receive, send)

    async def _connect(self, scope: Scope, send: Send) -> None:
        sandbox = self._sandboxes.known[scope["path"].split("/")[-2]]
        answer = {
            "templateID": "base",
            "sandboxID": sandbox.sandbox_id,
            "clientID": "test",
            "envdVersion": ENVD_VERSION,
            "domain": None,
        }
        if sandbox.access_token is not None:
            answer["envdAccessToken"] = sandbox.access_token
        await respond_json(send, 200, answer)


@dataclass
class EnvdServer:
    """A server in a thread of its own, so that the blocking client can run in the test."""

    url: str
    sandboxes: Sandboxes
    loop: asyncio.AbstractEventLoop

    def run(self, coroutine: Any, seconds: float = 30) -> Any:
        """Run a coroutine on the server's event loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(seconds)


@contextlib.contextmanager
def serve(sandboxes: Sandboxes) -> Iterator[EnvdServer]:
    """Serve the sandboxes until the block is left; stops their processes like a cubelet."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        Edge(sandboxes),
        http=BulkServer,
        log_level="warning",
        loop="uvloop",
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    started: asyncio.Future[asyncio.AbstractEventLoop] | Any = _Started()

    async def main() -> None:
        started.set(asyncio.get_running_loop())
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: uvicorn_run(config, main), name="envd")
    thread.start()
    running = EnvdServer(f"http://127.0.0.1:{listener.getsockname()[1]}", sandboxes, started.get())
    try:
        yield running
    finally:
        for sandbox_id in sandboxes.known:
            running.run(sandboxes.close_state(sandbox_id))
        server.should_exit = True
        thread.join(20)
        listener.close()


class _Started:
    """Hands the event loop of the server's thread to the test's thread."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def set(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready.set()

    def get(self) -> asyncio.AbstractEventLoop:
        assert self._ready.wait(10)
        assert self._loop is not None
        return self._loop


def uvicorn_run(config: uvicorn.Config, main: Any) -> None:
    """Run a coroutine on the kind of event loop that the service uses."""
    factory = config.get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
