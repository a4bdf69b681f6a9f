"""Which leaves are kept, and for which names there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cube.egress.ca import Authority, open_authority
from cube.egress.leaves import Leaves
from cube.egress.names import Names
from cube.model.egress_wire import parse_rules
from support.egress_cases import rule

DAY = 24 * 3600.0


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return open_authority(Path(tmp_path_factory.mktemp("leaves")) / "ca")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_leaf_is_minted_once(authority: Authority, clock: Clock) -> None:
    leaves = Leaves(authority, clock=clock)

    assert leaves.get("a.test") is leaves.get("a.test")
    assert leaves.get("b.test") is not leaves.get("a.test")


def test_a_leaf_is_minted_again_before_it_ends(authority: Authority, clock: Clock) -> None:
    leaves = Leaves(authority, clock=clock)
    first = leaves.get("a.test")
    clock.now += 6 * DAY + 1

    assert leaves.get("a.test") is not first


def test_what_is_old_is_forgotten(authority: Authority, clock: Clock) -> None:
    leaves = Leaves(authority, clock=clock)
    leaves.get("a.test")
    clock.now += 3 * DAY
    leaves.get("b.test")
    clock.now += 3 * DAY + 1

    assert leaves.forget() == ["a.test"]
    assert leaves.forget() == []


def test_what_was_not_used_for_longest_is_forgotten_first(authority: Authority, clock: Clock) -> None:
    leaves = Leaves(authority, most=2, clock=clock)
    for name in ("a.test", "b.test", "c.test", "a.test"):
        leaves.get(name)

    assert leaves.forget() == ["b.test"]
    assert len(leaves) == 2


def test_no_more_is_minted_than_the_machine_can_bear(authority: Authority, clock: Clock) -> None:
    leaves = Leaves(authority, clock=clock)

    minted = sum(leaves.get(f"{number}.test") is not None for number in range(1200))
    assert minted == 1000
    assert leaves.get("0.test") is not None
    assert leaves.get("more.test") is None

    clock.now += 0.05
    assert sum(leaves.get(f"later{number}.test") is not None for number in range(20)) == 10


def names(*matches: dict[str, Any]) -> Names:
    made = Names()
    made.add(parse_rules([rule(**match) for match in matches]))
    return made


@pytest.mark.parametrize(
    ("match", "known", "unknown"),
    [
        ({"host": "api.a.test"}, ["api.a.test"], ["a.test", "x.api.a.test", "b.test"]),
        ({"sni": "api.a.test", "host": "*.a.test"}, ["api.a.test"], ["www.a.test"]),
        ({"host": "*.a.test"}, ["api.a.test", "x.y.a.test"], ["a.test", "evila.test"]),
        ({"path": "/x"}, ["anything.test", "localhost"], []),
        ({"host": "a.test", "scheme": "http"}, [], ["a.test"]),
        ({"scheme": "http"}, [], ["a.test"]),
    ],
)
def test_names_that_a_rule_speaks_of(match: dict[str, Any], known: list[str], unknown: list[str]) -> None:
    made = names(match)

    assert all(made.known(name) for name in known)
    assert not any(made.known(name) for name in unknown)


def test_names_are_forgotten_with_the_last_rule_that_speaks_of_them() -> None:
    made = names({"host": "a.test"}, {"host": "a.test"})
    (one,) = parse_rules([rule(host="a.test")])

    made.remove([one])
    assert made.known("a.test")

    made.remove([one])
    assert not made.known("a.test")


def test_denied_names_are_spoken_of_too() -> None:
    """The client is to see the refusal, not a broken connection."""
    made = Names()
    made.add(parse_rules([rule("no", False, host="a.test")]))

    assert made.known("a.test")
