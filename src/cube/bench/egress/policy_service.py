"""The policy service of the egress benchmark: the outbound proxy and its admin API, without the rest of the service, so
that it can be killed.

    CUBE_…=… python -m cube.bench.egress.policy_service POLICIES
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvicorn

from cube.egress.admin_api import create_admin_api
from cube.egress.admin_wire import parse_policy
from cube.egress.opening import open_gateway
from cube.proxy import sockets
from cube.settings import Settings


class _Server(uvicorn.Server):
    """A server that leaves signals to the process: what is started has to be stopped before it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """No handlers."""
        yield

    def end(self) -> None:
        """Serve no longer."""
        self.should_exit = True


async def main(policies: dict[str, Any]) -> None:
    """Put policies in force, by address, and serve until SIGTERM."""
    settings = Settings()
    gateway = open_gateway(settings)
    for address, wire in policies.items():
        policy = parse_policy(wire, address)
        await gateway.put(policy.address, policy.policy_id, policy.rules)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(gateway.close)
        await gateway.start()
        listener = stack.enter_context(sockets.listening(settings.egress_admin_socket, os.geteuid()))
        config = uvicorn.Config(create_admin_api(gateway), lifespan="off", access_log=False, log_level="warning")
        server = _Server(config)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.end)
        await server.serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
