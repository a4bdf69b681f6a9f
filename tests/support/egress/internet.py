"""The sites of ``support.egress.sites`` on an internet of ``support.machine``, served by a thread of their own."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.egress.namespaces import in_namespace
from support.egress.sites import Internet, authority_at
from support.egress.world import DNS, NAMES, name_server
from support.machine import Internet as Beyond

#: What a service on that machine has to be told.
SETTINGS = {"CUBE_DNS_SERVERS": DNS}


@contextmanager
def sites(beyond: Beyond, directory: Path) -> Iterator[Internet]:
    """All names of the test's internet, and a name server, during the block."""
    for address in {*NAMES.values(), DNS}:
        if not address.startswith("127."):
            beyond.ip(f"address replace {address}/32 dev machine")
    internet = Internet(authority_at(directory / "world-ca"))
    ready, loop = threading.Event(), asyncio.new_event_loop()
    failure: list[BaseException] = []

    def call(make: Callable[[], socket.socket]) -> socket.socket:
        return in_namespace(beyond.namespace, make)

    async def serve() -> None:
        def listen(port: int) -> socket.socket:
            return call(lambda: socket.create_server(("", port), backlog=256))

        async with internet.serving(listen, tls=(443, 8443), plain=(80,)), name_server(call, dict(NAMES)):
            ready.set()
            await asyncio.Event().wait()

    def work() -> None:
        try:
            loop.run_until_complete(serve())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001  told below
            failure.append(error)
            ready.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ready.wait(20)
    assert not failure, failure
    try:
        yield internet
    finally:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        thread.join(10)


def trust(directory: Path) -> str:
    """The file that the outbound proxy checks servers against."""
    path = directory / "world-ca" / "cube-root-ca.crt"
    os.chmod(directory, 0o755)
    return str(path)
