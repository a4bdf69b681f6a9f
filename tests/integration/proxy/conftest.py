"""Fixtures of the proxy's tests; what they are made of is in ``proxy_door``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from proxy_door import Box, Door, Upstream, opened, services, serving, tcp_listener

from cube.proxy.routes import Route


@pytest.fixture(scope="module")
def run_dir() -> Iterator[Path]:
    # pytest's own directories are closed to the proxy's user.
    directory = Path(tempfile.mkdtemp(prefix="cube-proxy-"))
    yield directory
    shutil.rmtree(directory)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(run_dir: Path) -> AsyncIterator[Door]:
    async with opened(run_dir) as door, services(door.settings):
        yield door


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box(door: Door) -> AsyncIterator[Box]:
    upstream = Upstream("box")
    with tcp_listener("127.64.0.5") as listener:
        async with serving(listener, upstream):
            door.proxy.added(Route("box1", "127.64.0.5"))
            yield Box("box1", "127.64.0.5", listener.getsockname()[1], upstream)
            door.proxy.removed("box1")
