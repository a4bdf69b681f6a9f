"""Connections that are forgotten without anybody else's policy waiting for it."""

from __future__ import annotations

import threading
from ipaddress import IPv4Address

import pytest

from cube.netagent import conntrack
from cube.netagent.conntrack import Unwanted
from cube.netagent.cutting import Cutter

pytestmark = pytest.mark.root

ONE, TWO, THREE = (IPv4Address(f"203.0.113.{number}") for number in range(1, 4))


async def test_one_listing_serves_all_that_ask_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a listing runs others are asked for: they are done together, and each is done once."""
    listings: list[set[IPv4Address]] = []
    begun, go_on = threading.Event(), threading.Event()

    def slow(unwanted: dict[IPv4Address, Unwanted]) -> int:
        listings.append(set(unwanted))
        begun.set()
        go_on.wait(10)
        return 0

    monkeypatch.setattr(conntrack, "forget_flows", slow)
    cutter = Cutter("cutting")
    try:
        cutter.ask(ONE, lambda flow: True)
        assert begun.wait(10)
        cutter.ask(TWO, lambda flow: True)
        cutter.ask(THREE, lambda flow: True)
        go_on.set()
        await cutter.settled()
        assert listings[:2] == [{ONE}, {TWO, THREE}]
        assert all(not more for more in listings[2:])
    finally:
        cutter.close()


async def test_a_kernel_that_refuses_is_logged_and_nothing_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(unwanted: dict[IPv4Address, Unwanted]) -> int:
        raise OSError(1, "not permitted")

    monkeypatch.setattr(conntrack, "forget_flows", refuse)
    cutter = Cutter("cutting")
    try:
        cutter.ask(ONE, lambda flow: True)
        await cutter.settled()
        assert str(ONE) in caplog.text
    finally:
        cutter.close()
