"""A running interpreter app, the unmodified client pointed at it, and a Python environment for its kernels."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop
from e2b import ConnectionConfig
from e2b_code_interpreter import Sandbox
from packaging.version import Version

from cube.envd.asgi import Receive, Scope, Send
from cube.envd.interpreter import create_interpreter_app
from cube.envd.interpreter.contexts import interpreter_of
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import SandboxNotFound
from cube.model.resources import Resources
from cube.model.template import ImageConfig
from support.kernel_env import kernel_environment
from support.local_guest import LocalGuest


@pytest.fixture(scope="session")
def kernel_env() -> Path:
    """A virtual environment with what a code interpreter image has."""
    return kernel_environment()


class Node:
    """A node with one sandbox: the lookup that the app asks, and the server that clients reach."""

    def __init__(self, sandbox: EnvdSandbox, guest: LocalGuest) -> None:
        self.sandbox = sandbox
        self.guest = guest
        self.gone = False
        self._app = create_interpreter_app(self)
        self._server = uvicorn.Server(
            uvicorn.Config(self._serve, interface="asgi3", port=0, log_level="error", lifespan="off")
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()

    async def get(self, sandbox_id: str) -> EnvdSandbox:
        """The sandbox, by its id, unless it has been declared gone."""
        if self.gone or sandbox_id != self.sandbox.sandbox_id:
            raise SandboxNotFound(sandbox_id)
        return self.sandbox

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name the sandbox as the proxy does."""
        named = {b"e2b-sandbox-id": b"x-cube-sandbox-id"}
        scope["headers"] = [(named.get(name, name), value) for name, value in scope["headers"]]
        await self._app(scope, receive, send)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server.config.load()
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        await self._server.startup()
        self._started.set()
        await self._server.main_loop()
        await self._server.shutdown()
        await interpreter_of(self.sandbox).close()

    def _run_on_uvloop(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve from a thread of its own."""
        thread = threading.Thread(target=self._run_on_uvloop)
        thread.start()
        assert self._started.wait(10)
        try:
            yield
        finally:
            self._server.should_exit = True
            thread.join(20)
            self.guest.kill_all()
            assert not thread.is_alive()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a coroutine function on the server's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(20)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def client(self, sandbox_id: str = "sbx") -> Sandbox:
        """The client of a sandbox that exists already."""
        config = ConnectionConfig(sandbox_url=self.url, api_key="e2b_" + "0" * 40)
        return Sandbox(
            sandbox_id=sandbox_id,
            envd_version=Version("0.6.13"),
            envd_access_token=None,
            sandbox_domain=None,
            connection_config=config,
        )


@pytest.fixture
def node(kernel_env: Path, tmp_path: Path) -> Iterator[Node]:
    """A running node."""
    guest = LocalGuest(tmp_path)
    sandbox = EnvdSandbox(
        sandbox_id="sbx",
        guest=guest,  # type: ignore[arg-type]
        access_token=None,
        default_user="user",
        default_workdir=str(tmp_path),
        env_vars={"FROM_SANDBOX": "yes"},
        image=ImageConfig(env={"PATH": f"{kernel_env}/bin:{os.environ['PATH']}"}),
        resources=Resources(),
        code_interpreter=True,
    )
    node = Node(sandbox, guest)
    with node.running():
        yield node


@pytest.fixture
def client(node: Node) -> Sandbox:
    """The unmodified client."""
    return node.client()
