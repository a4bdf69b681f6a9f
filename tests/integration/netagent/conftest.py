from __future__ import annotations

import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

import pytest

from cube.netagent.firewall import Firewall
from cube.netagent.links import LinkPool
from cube.settings import Settings
from support import network, slots
from support.machine import Internet, greeters, machine
from support.sandbox_links import Net, net

_numbers = count()


@pytest.fixture
def make_settings() -> Callable[..., Settings]:
    """Settings of an instance of its own, in the range that is kept for tests of networks (RFC 2544)."""

    def make(**changes: Any) -> Settings:
        number = slots.slot() * 512 + next(_numbers) % 512
        cidr = f"198.{18 + number // 4096}.{number % 4096 // 16}.{number % 16 * 16}/28"
        return Settings(**{"instance": f"n{number:x}x", "network_cidr": cidr, "seat_pool": 2, **changes})

    return make


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tests close a pool while processes still hold its links: do not wait long for what cannot happen."""
    monkeypatch.setattr("cube.netagent.factory._REMOVAL_TIME", 0.5)


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture
async def firewall(settings: Settings) -> AsyncIterator[Firewall]:
    firewall = Firewall(settings)
    await firewall.install()
    yield firewall
    await firewall.remove()


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[LinkPool]:
    pool = LinkPool(settings)
    try:
        await pool.start()
        yield pool
    finally:
        await pool.close(remove=True)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts code, see :func:`support.network.start`, and ends it after the test."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        running.append(network.start(*arguments, **options))
        return running[-1]

    yield start
    for child in running:
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=10)


@pytest.fixture
def internet() -> Iterator[Internet]:
    """A machine of the test's own, with hosts beyond it that greet."""
    with machine() as internet, greeters(internet):
        yield internet


@pytest.fixture
async def ground(internet: Internet, settings: Settings) -> AsyncIterator[Net]:
    """A firewall, links and policies on that machine."""
    async with net(settings) as made:
        yield made
