"""Whether somebody else has addresses in our range, asked while pools make and remove links."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network
from typing import Any, cast

import pytest

from cube.model.errors import HostError
from cube.netagent.addresses import AddressPlan
from cube.netagent.rtnetlink import AddressInfo, LinkInfo, RouteSocket
from cube.netagent.veth import LinkFactory

PLAN = AddressPlan("here", IPv4Network("198.18.0.0/24"))
OURS = 7
ADDRESS = IPv4Interface("198.18.0.4/31")


class Host:
    """An interface that is there for each question in turn, or not."""

    def __init__(self, index: int, *there: bool) -> None:
        self._index = index
        self._there = list(there)

    def _is_there(self) -> bool:
        return self._there.pop(0) if len(self._there) > 1 else self._there[0]

    def addresses(self) -> list[AddressInfo]:
        return [AddressInfo(self._index, ADDRESS)] if self._is_there() else []

    def links(self, prefix: str) -> list[Any]:
        there = self._is_there() and self._index == OURS
        return [cast(LinkInfo, type("Link", (), {"index": OURS}))] if there else []


def factory(host: Host) -> LinkFactory:
    made = LinkFactory.__new__(LinkFactory)
    made.plan = PLAN
    made._host = cast(RouteSocket, host)
    return made


@pytest.mark.parametrize(
    "there",
    [(True,), (False,), (False, True), (True, False), (False, True, False), (True, False, False), (True, True, False)],
    ids=str,
)
def test_a_link_that_comes_or_goes_meanwhile_is_nobody_elses(there: tuple[bool, ...]) -> None:
    factory(Host(OURS, *there)).check_network()


def test_an_interface_of_somebody_else_is_refused_with_its_address() -> None:
    with pytest.raises(
        HostError, match=r"198\.18\.0\.0/24 for sandboxes is in use on this machine \(198\.18\.0\.4/31\)"
    ):
        factory(Host(OURS + 1, True)).check_network()


def test_an_address_beside_our_range_is_no_matter() -> None:
    made = factory(Host(OURS + 1, True))
    made.plan = replace(PLAN, network=IPv4Network("198.18.1.0/24"))
    made.check_network()
