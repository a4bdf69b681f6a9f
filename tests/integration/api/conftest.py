from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import structlog

from cube.api.app import create_api
from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import Master, running_master


@pytest.fixture(autouse=True)
def _brief_logs() -> Iterator[None]:
    """Failures that tests provoke are logged without tracebacks, whose pretty printing takes longer than the tests."""
    structlog.configure(processors=[lambda _logger, _method, event: repr(event)])
    yield
    structlog.reset_defaults()


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
async def master(tmp_path: Path, node: FakeNode) -> AsyncIterator[Master]:
    async with running_master(tmp_path, node, FakeClock()) as master:
        yield master


@pytest.fixture
async def api(master: Master) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, in this process."""
    transport = httpx.ASGITransport(create_api(master.service, master.settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://cube") as client:
        yield client
