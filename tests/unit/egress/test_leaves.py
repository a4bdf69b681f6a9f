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

    assert leaves.get("a.test", "a.test") is leaves.get("a.test", "a.test")
    assert leaves.get("b.test", "b.test") is not leaves.get("a.test", "a.test")


def test_a_leaf_is_minted_again_before_it_ends(authority: Authority, clock: Clock) -> None:
    leaves = Leaves(authority, clock=clock)
    first = leaves.get("a.test", "a.test")
    clock.now += 6 * DAY + 1

    assert leaves.get("a.test", "a.test") is not first


def test_what_is_old_is_forgotten(authority: Authority, clock: Clock) -> None:
    leaves = Leaves(authority, clock=clock)
    leaves.get("a.test", "a.test")
    clock.now += 3 * DAY
    leaves.get("b.test", "b.test")
    clock.now += 3 * DAY + 1

    assert leaves.forget() == ["a.test"]
    assert leaves.forget() == []


def test_what_was_not_used_for_longest_is_forgotten_first(authority: Authority, clock: Clock) -> None:
    leaves = Leaves(authority, most=2, clock=clock)
    for name in ("a.test", "b.test", "c.test", "a.test"):
        leaves.get(name, name)

    assert leaves.forget() == ["b.test"]
    assert len(leaves) == 2


def minted(leaves: Leaves, pattern: str, count: int, first: int = 0) -> int:
    """How many of so many new names below a pattern get a certificate."""
    names = (f"{number}{pattern.removeprefix('*')}" for number in range(first, first + count))
    return sum(leaves.get(name, pattern) is not None for name in names)


def test_made_up_names_use_up_the_budget_of_their_own_wildcard_alone(authority: Authority, clock: Clock) -> None:
    leaves = Leaves(authority, clock=clock)

    assert minted(leaves, "*.flood.test", 300) == 200
    assert leaves.get("0.flood.test", "*.flood.test") is not None
    assert minted(leaves, "*.b.test", 50) == 50
    assert leaves.get("api.flood.test", "api.flood.test") is not None

    clock.now += 0.5
    assert minted(leaves, "*.flood.test", 20, first=1000) == 10


def test_no_more_is_minted_for_wildcards_than_the_machine_can_bear(authority: Authority, clock: Clock) -> None:
    leaves = Leaves(authority, clock=clock)

    assert sum(minted(leaves, f"*.{number}.test", 100) for number in range(12)) == 1000
    assert leaves.get("exact.test", "exact.test") is not None


def test_made_up_names_are_forgotten_first(authority: Authority, clock: Clock) -> None:
    leaves = Leaves(authority, most=2, clock=clock)
    for name, pattern in (("a.test", "a.test"), ("x.w.test", "*.w.test"), ("y.w.test", "*.w.test")):
        leaves.get(name, pattern)

    assert leaves.forget() == ["x.w.test"]


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

    assert all(made.pattern(name) for name in known)
    assert not any(made.pattern(name) for name in unknown)


def test_the_closest_pattern_is_said() -> None:
    made = names({"host": "api.a.test"}, {"host": "*.a.test"}, {"host": "*.x.a.test"}, {"path": "/x"})

    found = [made.pattern(name) for name in ("api.a.test", "b.a.test", "c.x.a.test", "other.test")]

    assert found == ["api.a.test", "*.a.test", "*.x.a.test", "*"]


def test_names_are_forgotten_with_the_last_rule_that_speaks_of_them() -> None:
    made = names({"host": "a.test"}, {"host": "a.test"})
    (one,) = parse_rules([rule(host="a.test")])

    made.remove([one])
    assert made.pattern("a.test")

    made.remove([one])
    assert not made.pattern("a.test")


def test_denied_names_are_spoken_of_too() -> None:
    """The client is to see the refusal, not a broken connection."""
    made = Names()
    made.add(parse_rules([rule("no", False, host="a.test")]))

    assert made.pattern("a.test")
