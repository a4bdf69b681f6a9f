from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.cubelet.demand import Demand
from support.fake_clock import FakeClock


def demand(clock: FakeClock, low: int = 2, high: int = 50) -> Demand:
    return Demand(low, high, span=2.0, memory=60.0, clock=clock.elapsed)


def ask(one: Demand, times: int, clock: FakeClock, every: float = 0.0) -> None:
    for _ in range(times):
        one.note()
        clock.advance(every)


def test_quiet_keeps_the_lowest_number() -> None:
    assert demand(FakeClock()).target == 2


def test_a_burst_raises_it_at_once() -> None:
    clock = FakeClock()
    one = demand(clock)
    ask(one, 20, clock)
    assert one.target == 20


def test_never_more_than_the_highest_number() -> None:
    clock = FakeClock()
    one = demand(clock)
    ask(one, 500, clock)
    assert one.target == 50


def test_a_steady_rate_keeps_what_comes_within_the_span() -> None:
    clock = FakeClock()
    one = demand(clock)
    ask(one, 600, clock, every=0.1)
    assert one.target == pytest.approx(20, abs=1)


def test_a_burst_is_forgotten_slowly() -> None:
    clock = FakeClock()
    one = demand(clock)
    ask(one, 40, clock)
    clock.advance(10)
    assert one.target > 30
    clock.advance(110)
    assert 2 < one.target < 10
    clock.advance(600)
    assert one.target == 2


def test_single_requests_far_apart_ask_for_nothing_more() -> None:
    clock = FakeClock()
    one = demand(clock)
    ask(one, 50, clock, every=30)
    assert one.target == 2


def test_a_lowest_number_above_the_highest_counts() -> None:
    assert demand(FakeClock(), low=8, high=4).target == 8


@given(st.lists(st.floats(min_value=0, max_value=100), max_size=200))
def test_the_target_is_always_within_its_bounds(pauses: list[float]) -> None:
    clock = FakeClock()
    one = demand(clock)
    for pause in pauses:
        ask(one, 3, clock)
        assert 2 <= one.target <= 50
        clock.advance(pause)
        assert 2 <= one.target <= 50
