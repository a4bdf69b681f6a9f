from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import Master, running_master


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
