"""Timeouts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cube.master.sandboxes.lifecycle import NEVER
from cube.model.errors import HostError, InvalidInput
from cube.model.sandbox import Condition, OnTimeout, SandboxState
from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import Master, eventually, running_master, settle


async def test_time_up_ends_a_sandbox(master: Master) -> None:
    sandbox = await master.create(seconds=60)
    await master.pass_time(59)
    assert sandbox.sandbox_id in master.node.alive
    await master.pass_time(1)
    await eventually(lambda: master.service.count() == 0)
    assert master.node.alive == {}
    assert await master.recorded() == {}


async def test_time_up_pauses_a_sandbox_that_asked_for_it(master: Master) -> None:
    sandbox = await master.create(seconds=60, on_timeout=OnTimeout.PAUSE)
    await master.pass_time(60)
    await eventually(lambda: master.service.get(sandbox.sandbox_id).state is SandboxState.PAUSED)
    assert master.node.alive == {sandbox.sandbox_id: Condition.PAUSED}


async def test_a_timeout_of_zero_ends_it_now(master: Master) -> None:
    sandbox = await master.create()
    await master.service.set_timeout(sandbox.sandbox_id, 0)
    await eventually(lambda: master.service.count() == 0)


async def test_a_timeout_of_minus_one_never_comes(master: Master) -> None:
    sandbox = await master.create(seconds=-1)
    await master.pass_time(10 * 365 * 86400)
    assert sandbox.sandbox_id in master.node.alive
    await master.service.connect(sandbox.sandbox_id, 60)
    assert master.service.get(sandbox.sandbox_id).end_at == NEVER
    await master.service.set_timeout(sandbox.sandbox_id, 60)
    await master.service.set_timeout(sandbox.sandbox_id, -1)
    await master.pass_time(61)
    assert master.service.get(sandbox.sandbox_id).end_at == NEVER
    with pytest.raises(InvalidInput, match="-1 for no end"):
        await master.service.set_timeout(sandbox.sandbox_id, -2)


async def test_an_extended_sandbox_outlives_its_first_deadline(master: Master) -> None:
    sandbox = await master.create(seconds=10)
    await master.service.set_timeout(sandbox.sandbox_id, 100)
    await master.pass_time(99)
    assert sandbox.sandbox_id in master.node.alive
    await master.pass_time(1)
    await eventually(lambda: master.service.count() == 0)


async def test_the_timeout_begins_when_the_sandbox_answers(master: Master) -> None:
    gate = master.node.close_gate("create")
    creating = asyncio.create_task(master.create(seconds=10))
    sandbox_id = await master.node.called("create")
    await master.pass_time(50)
    gate.set()
    assert (await creating).sandbox_id == sandbox_id
    await master.pass_time(9)
    assert sandbox_id in master.node.alive


async def test_a_sandbox_that_cannot_be_paused_is_tried_again_and_then_ended(master: Master) -> None:
    sandbox = await master.create(seconds=10, on_timeout=OnTimeout.PAUSE)
    master.node.fail("pause", *[HostError("no")] * 3)
    await master.pass_time(10)
    for times in (1, 2, 3):
        await eventually(lambda times=times: len(master.node.calls_of("pause")) == times)  # type: ignore[misc]
        await settle()
        assert sandbox.sandbox_id in master.node.alive
        await master.pass_time(5)
    await eventually(lambda: master.service.count() == 0)
    assert len(master.node.calls_of("pause")) == 3


async def test_a_pause_that_works_the_second_time_is_a_pause(master: Master) -> None:
    sandbox = await master.create(seconds=10, on_timeout=OnTimeout.PAUSE)
    master.node.fail("pause", HostError("no"))
    await master.pass_time(10)
    await eventually(lambda: len(master.node.calls_of("pause")) == 1)
    await settle()
    await master.pass_time(5)
    await eventually(lambda: master.service.get(sandbox.sandbox_id).state is SandboxState.PAUSED)


@pytest.mark.parametrize("on_timeout", list(OnTimeout))
async def test_a_deadline_that_passed_while_the_service_was_down_acts_at_start(
    tmp_path: Path, node: FakeNode, clock: FakeClock, on_timeout: OnTimeout
) -> None:
    async with running_master(tmp_path, node, clock) as master:
        sandbox = await master.create(seconds=60, on_timeout=on_timeout)
    assert node.alive == {sandbox.sandbox_id: Condition.RUNNING}
    clock.advance(61)
    async with running_master(tmp_path, node, clock) as master:
        if on_timeout is OnTimeout.KILL:
            await eventually(lambda: node.alive == {})
            await eventually(lambda: master.service.count() == 0)
        else:
            await eventually(lambda: node.alive == {sandbox.sandbox_id: Condition.PAUSED})


async def test_a_deadline_survives_a_restart(tmp_path: Path, node: FakeNode, clock: FakeClock) -> None:
    async with running_master(tmp_path, node, clock) as master:
        sandbox = await master.create(seconds=60)
        clock.advance(30)
    async with running_master(tmp_path, node, clock) as master:
        assert master.service.get(sandbox.sandbox_id) == sandbox
        await master.pass_time(29)
        assert sandbox.sandbox_id in node.alive
        await master.pass_time(1)
        await eventually(lambda: node.alive == {})


async def test_ended_sandboxes_are_remembered_for_a_day(tmp_path: Path, node: FakeNode, clock: FakeClock) -> None:
    async with running_master(tmp_path, node, clock) as master:
        sandbox = await master.create()
        await master.service.delete(sandbox.sandbox_id)
    clock.advance(86_399)
    async with running_master(tmp_path, node, clock) as master:
        await settle()
        assert master.service.knows(sandbox.sandbox_id)
    clock.advance(2)
    async with running_master(tmp_path, node, clock) as master:
        await eventually(lambda: not master.service.knows(sandbox.sandbox_id))
        assert await master.store.sandboxes.ended(10) == []
