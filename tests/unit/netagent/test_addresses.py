from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from cube.netagent.addresses import MOST_LINKS, AddressPlan

PLAN = AddressPlan("cube", IPv4Network("10.213.0.0/16"))


def test_pairs() -> None:
    assert str(PLAN.gateway(0)) == "10.213.0.0/31"
    assert str(PLAN.sandbox(0)) == "10.213.0.1/31"
    assert str(PLAN.sandbox(32767)) == "10.213.255.255/31"


def test_no_two_links_share_an_address() -> None:
    plan = AddressPlan("cube", IPv4Network("10.0.0.0/24"))
    pairs = [end.ip for index in range(plan.capacity) for end in (plan.gateway(index), plan.sandbox(index))]
    assert len(set(pairs)) == 256


@pytest.mark.parametrize("index", [-1, 32768])
def test_outside(index: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        PLAN.gateway(index)


def test_longest_name_fits_the_kernel() -> None:
    plan = AddressPlan("abcdefgh", IPv4Network("10.0.0.0/8"))
    assert plan.capacity == MOST_LINKS
    assert len(plan.interface(plan.capacity - 1)) <= 15


@pytest.mark.parametrize("name", ["cube-7", "cube-0", "cube-32767"])
def test_own_names(name: str) -> None:
    index = PLAN.index(name)
    assert index is not None
    assert PLAN.interface(index) == name


@pytest.mark.parametrize("name", ["cube2-7", "cube-", "cube-07", "cube-x", "cube-32768", "cube", "eth0", "cube-٣"])
def test_foreign_names(name: str) -> None:
    assert PLAN.index(name) is None
