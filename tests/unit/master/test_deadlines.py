from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.master.sandboxes.deadlines import DeadlineQueue, DeadlineTimer
from support.fake_clock import FakeClock

KEYS = st.sampled_from("abcdef")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.integers(0, 50)),
        st.tuples(st.just("discard"), KEYS, st.just(0)),
        st.tuples(st.just("pop"), st.just(""), st.integers(0, 50)),
    ),
    max_size=300,
)


@given(STEPS)
def test_queue_does_what_a_dictionary_would(steps: list[tuple[str, str, int]]) -> None:
    queue, model = DeadlineQueue(), dict[str, float]()
    for step, key, at in steps:
        if step == "set":
            queue.set(key, at)
            model[key] = at
        elif step == "discard":
            queue.discard(key)
            model.pop(key, None)
        else:
            expected = sorted((when, name) for name, when in model.items() if when <= at)
            assert queue.pop_due(at) == [name for _, name in expected]
            model = {name: when for name, when in model.items() if when > at}
        assert queue.next_at() == min(model.values(), default=None)
        assert len(queue) == len(model)


def test_queue_does_not_grow_with_changes_of_one_deadline() -> None:
    queue = DeadlineQueue()
    for at in range(10_000):
        queue.set("a", at)
    assert len(queue._heap) < 100
    assert queue.pop_due(10_000) == ["a"]


class Harness:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.acted: asyncio.Queue[str] = asyncio.Queue()
        self.timer = DeadlineTimer(self.clock, self.acted.put_nowait)

    async def pass_time(self, seconds: float) -> list[str]:
        self.clock.advance(seconds)
        return await self.look()

    async def look(self) -> list[str]:
        """What the timer does when it looks at the clock now."""
        self.timer.wake()
        for _ in range(5):
            await asyncio.sleep(0)
        return [self.acted.get_nowait() for _ in range(self.acted.qsize())]


@asynccontextmanager
async def running() -> AsyncIterator[Harness]:
    harness = Harness()
    task = asyncio.create_task(harness.timer.run())
    try:
        yield harness
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_timer_acts_when_the_time_has_come_and_once() -> None:
    async with running() as harness:
        harness.timer.set("a", harness.clock.now() + timedelta(seconds=10))
        assert await harness.pass_time(9.9) == []
        assert await harness.pass_time(0.1) == ["a"]
        assert await harness.pass_time(100) == []


async def test_a_deadline_that_has_passed_acts_at_once() -> None:
    async with running() as harness:
        harness.timer.set("a", harness.clock.now() - timedelta(hours=1))
        assert await asyncio.wait_for(harness.acted.get(), 1) == "a"


async def test_an_earlier_deadline_wakes_the_sleeping_timer() -> None:
    async with running() as harness:
        harness.timer.set("late", harness.clock.now() + timedelta(hours=1))
        await asyncio.sleep(0)
        harness.timer.set("now", harness.clock.now())
        assert await asyncio.wait_for(harness.acted.get(), 1) == "now"


async def test_a_later_deadline_replaces_an_earlier_one() -> None:
    async with running() as harness:
        harness.timer.set("a", harness.clock.now() + timedelta(seconds=1))
        harness.timer.set("a", harness.clock.now() + timedelta(seconds=5))
        assert await harness.pass_time(2) == []
        assert await harness.pass_time(3) == ["a"]


async def test_a_discarded_deadline_does_not_act() -> None:
    async with running() as harness:
        harness.timer.set("a", harness.clock.now() + timedelta(seconds=1))
        harness.timer.discard("a")
        assert await harness.pass_time(2) == []


@pytest.mark.parametrize("jump", [-3600, 3600])
async def test_setting_the_time_of_day_neither_ends_nor_keeps_anything(jump: int) -> None:
    async with running() as harness:
        harness.timer.set("a", harness.clock.now() + timedelta(seconds=10))
        harness.clock.set_wall(jump)
        assert await harness.look() == []
        assert await harness.pass_time(10) == ["a"]


async def test_real_time_wakes_the_timer() -> None:
    from cube.master.sandboxes.clock import SystemClock

    acted: asyncio.Queue[str] = asyncio.Queue()
    clock = SystemClock()
    timer = DeadlineTimer(clock, acted.put_nowait)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(timer.run())
        timer.set("a", clock.now() + timedelta(milliseconds=30))
        assert await asyncio.wait_for(acted.get(), 5) == "a"
        task.cancel()
