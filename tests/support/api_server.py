"""CubeAPI on a port of the loopback interface, in a thread of its own, for clients that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from cube.api.app import create_api
from cube.api.authority import authority
from cube.master.sandboxes.service import SandboxService, sandbox_service
from cube.settings import Settings
from support.fake_node import FakeNode

T = TypeVar("T")


class ApiServer:
    """A running server; ``node`` and ``service`` belong to the thread's loop: touch them through :meth:`run`."""

    def __init__(self, settings: Settings, node: FakeNode) -> None:
        self.settings = settings
        self.node = node
        self.service: SandboxService
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._server: uvicorn.Server
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def start(self) -> None:
        """Return when it answers."""
        self._thread.start()
        assert self._started.wait(10), "the server did not start"

    def stop(self) -> None:
        """Shut it down."""
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(10)

    async def _serve(self) -> None:
        async with sandbox_service(self.node, self.settings) as self.service, authority(self.settings) as who:
            app = create_api(self.service, self.settings, who)
            self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._server.serve())
                while not self._server.started:  # noqa: ASYNC110  uvicorn has no event for it
                    await asyncio.sleep(0.005)
                port = self._server.servers[0].sockets[0].getsockname()[1]
                self.url = f"http://127.0.0.1:{port}"
                self._started.set()


@contextmanager
def running_api(directory: Path, *, node: FakeNode | None = None, **settings: Any) -> Iterator[ApiServer]:
    """A server that is shut down at the end of the block."""
    directory.mkdir(exist_ok=True)
    server = ApiServer(Settings(state_dir=directory, **settings), node or FakeNode())
    server.start()
    try:
        yield server
    finally:
        server.stop()
