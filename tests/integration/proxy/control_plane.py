"""A control plane in a process of its own, to be killed: ``python control_plane.py RUN_DIR PORT ADDRESS``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from cube.proxy.inbound import CubeProxy
from cube.proxy.routes import Route
from cube.settings import Settings


class Nobody:
    async def lookup(self, sandbox_id: str, token: str = "") -> None:
        return None


async def main(run_dir: Path, port: int, address: str) -> None:
    settings = Settings(instance="pxtest", run_dir=run_dir, port=port, network_cidr="127.64.0.0/16")
    proxy = CubeProxy(settings, Nobody())
    await proxy.start()
    proxy.added(Route("box1", address))
    print(proxy.envoy_pid, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
