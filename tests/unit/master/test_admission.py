from __future__ import annotations

import asyncio

import pytest

from cube.master.sandboxes.admission import Admission, Limits
from cube.model.errors import LimitExceeded


def test_a_full_node_refuses_and_says_when_to_come_back() -> None:
    admission = Admission(Limits(max_sandboxes=2))
    admission.check(1)
    with pytest.raises(LimitExceeded, match="2 sandboxes") as refused:
        admission.check(2)
    assert refused.value.retry_after > 0


async def test_turns_are_given_in_order_and_never_more_than_allowed() -> None:
    admission = Admission(Limits(max_sandboxes=100, concurrent_creates=2))
    begun: list[int] = []
    inside = most = 0

    async def create(number: int) -> None:
        nonlocal inside, most
        async with admission.turn():
            begun.append(number)
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(create(number))
    assert begun == list(range(20))
    assert most == 2


async def test_callers_take_turns_however_much_one_of_them_asks_for() -> None:
    admission = Admission(Limits(max_sandboxes=1000, concurrent_creates=1))
    begun: list[str] = []

    async def create(caller: str) -> None:
        async with admission.turn(caller):
            begun.append(caller)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for caller in ["greedy"] * 50 + ["a"] * 5 + ["b"] * 5:
            group.create_task(create(caller))
    assert begun[:16] == ["greedy", *["greedy", "a", "b"] * 5]
    assert begun[16:] == ["greedy"] * 44


async def test_a_full_queue_has_room_for_who_has_less_than_a_share() -> None:
    admission = Admission(Limits(max_sandboxes=100, concurrent_creates=1, queued_creates=4))
    async with admission.turn("greedy"):
        waiting = [asyncio.create_task(_take_turn(admission, "greedy")) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(LimitExceeded, match="waiting"):
            admission.check(0, "greedy")
        for _ in range(2):
            admission.check(0, "modest")
            waiting.append(asyncio.create_task(_take_turn(admission, "modest")))
            await asyncio.sleep(0)
        with pytest.raises(LimitExceeded, match="waiting"):
            admission.check(0, "modest")
    await asyncio.wait_for(asyncio.gather(*waiting), 1)


@pytest.mark.parametrize("steps", range(4))
async def test_a_turn_is_not_lost_when_whose_it_is_leaves_at_any_moment(steps: int) -> None:
    admission = Admission(Limits(max_sandboxes=100, concurrent_creates=1))
    async with admission.turn("a"):
        leaving = asyncio.create_task(_take_turn(admission, "b"))
        staying = asyncio.create_task(_take_turn(admission, "c"))
        await asyncio.sleep(0)
        if steps == 0:
            leaving.cancel()
    for _ in range(steps - 1):
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait_for(staying, 1)
    await asyncio.wait_for(_take_turn(admission, "b"), 1)


async def test_a_full_queue_refuses_until_somebody_leaves_it() -> None:
    admission = Admission(Limits(max_sandboxes=100, concurrent_creates=1, queued_creates=1))
    async with admission.turn():
        waiting = asyncio.create_task(_take_turn(admission))
        await asyncio.sleep(0)
        with pytest.raises(LimitExceeded, match="waiting"):
            admission.check(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        admission.check(0)


async def test_a_turn_comes_back_from_a_create_that_fails() -> None:
    admission = Admission(Limits(max_sandboxes=100, concurrent_creates=1))
    with pytest.raises(RuntimeError):
        async with admission.turn():
            raise RuntimeError
    await asyncio.wait_for(_take_turn(admission), 1)


async def _take_turn(admission: Admission, caller: str = "") -> None:
    async with admission.turn(caller):
        pass
