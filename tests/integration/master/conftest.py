from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

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
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def master(tmp_path: Path, node: FakeNode, clock: FakeClock) -> AsyncIterator[Master]:
    async with running_master(tmp_path, node, clock) as master:
        yield master
