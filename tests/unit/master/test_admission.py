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


async def _take_turn(admission: Admission) -> None:
    async with admission.turn():
        pass
