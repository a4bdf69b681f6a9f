"""Forks: one capture, several sandboxes like the source, nothing left of those that fail or are given up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cube.master.sandboxes.admission import Limits
from cube.model.errors import Conflict, HostError, InvalidInput, LimitExceeded, StorageFull
from cube.model.sandbox import Condition, OnTimeout, Sandbox, SandboxState
from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import Master, eventually, running_master


async def fork(master: Master, source: Sandbox, count: int = 1, seconds: int = 60) -> list[Sandbox]:
    """Forks that all succeed."""
    results = await master.service.fork(source.sandbox_id, count, seconds)
    return [result for result in results if isinstance(result, Sandbox)]


async def test_forks_are_like_their_source_but_for_their_identity(master: Master) -> None:
    source = await master.create(
        env_vars={"A": "1"},
        metadata={"a": "b"},
        on_timeout=OnTimeout.PAUSE,
        auto_resume=True,
        public_traffic=False,
        mask_request_host="example.com",
    )
    forks = await fork(master, source, 3)
    assert len({sandbox.sandbox_id for sandbox in (*forks, source)}) == 4
    tokens = {token for s in (*forks, source) for token in (s.envd_access_token, s.ingress.traffic_access_token)}
    assert len(tokens) == 8
    assert None not in tokens
    for made in forks:
        spec = master.node.specs[made.sandbox_id]
        assert (spec.env_vars, spec.template) == ({"A": "1"}, master.node.specs[source.sandbox_id].template)
        assert spec.envd_access_token == made.envd_access_token
        assert (made.metadata, made.on_timeout, made.auto_resume) == ({"a": "b"}, OnTimeout.PAUSE, True)
        assert (made.template_id, made.template_name) == (source.template_id, source.template_name)
        assert made.ingress.mask_request_host == "example.com"
        assert (made.end_at - master.clock.now()).total_seconds() == 60
    assert master.service.get(source.sandbox_id) == source
    assert set(await master.recorded()) == set(master.node.alive)


async def test_a_fork_is_recorded_with_its_time_before_it_runs(master: Master) -> None:
    """Its client may be told before more is recorded: a restart must not find that its time is up."""
    source = await master.create()
    gate = master.node.close_gate("create")
    forking = asyncio.create_task(master.service.fork(source.sandbox_id, 1, 60))
    forked = await master.node.called("create", 2)
    await _recorded(master, forked)
    record = next(r for r in await master.store.sandboxes.live() if r.sandbox.sandbox_id == forked)
    assert record.sandbox.state is SandboxState.CREATING
    assert (record.sandbox.end_at - master.clock.now()).total_seconds() == 60
    gate.set()
    await forking


async def _recorded(master: Master, sandbox_id: str) -> None:
    async with asyncio.timeout(10):
        while sandbox_id not in await master.recorded():  # noqa: ASYNC110  the store has no event for it
            await asyncio.sleep(0.001)


async def test_there_is_one_capture_and_it_does_not_stay(master: Master) -> None:
    source = await master.create()
    forks = await fork(master, source, 5)
    assert master.node.calls_of("snapshot") == [source.sandbox_id]
    assert len({master.node.specs[s.sandbox_id].snapshot_id for s in forks}) == 1
    await eventually(lambda: master.node.snapshots == {})
    assert await master.store.snapshots.all() == []


async def test_each_fork_fails_for_itself(master: Master) -> None:
    source = await master.create()
    master.node.fail("create", HostError("one"), StorageFull("two"))
    results = await master.service.fork(source.sandbox_id, 4, 60)
    assert sorted(type(result).__name__ for result in results) == ["HostError", "Sandbox", "Sandbox", "StorageFull"]
    assert len(master.node.alive) == 3
    assert set(await master.recorded()) == set(master.node.alive)


async def test_a_full_node_refuses_the_forks_that_do_not_fit(tmp_path: Path, node: FakeNode, clock: FakeClock) -> None:
    async with running_master(tmp_path, node, clock, Limits(max_sandboxes=3)) as master:
        source = await master.create()
        results = await master.service.fork(source.sandbox_id, 5, 60)
        assert [type(result) for result in results].count(LimitExceeded) == 3
        assert master.service.count() == 3


async def test_a_failed_capture_makes_no_fork(master: Master) -> None:
    source = await master.create()
    master.node.fail("snapshot", StorageFull("no room"))
    with pytest.raises(StorageFull):
        await master.service.fork(source.sandbox_id, 2, 60)
    assert len(master.node.calls_of("create")) == 1


async def test_a_paused_sandbox_can_be_forked(master: Master) -> None:
    source = await master.create()
    await master.service.pause(source.sandbox_id)
    (made,) = await fork(master, source)
    assert made.state is SandboxState.RUNNING
    assert master.node.alive[source.sandbox_id] is Condition.PAUSED


async def test_a_client_that_leaves_during_the_starts_leaves_no_fork(master: Master) -> None:
    source = await master.create()
    gate = master.node.close_gate("create")
    forking = asyncio.create_task(master.service.fork(source.sandbox_id, 3, 60))
    await master.node.called("create", 4)
    forking.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await forking
    await eventually(lambda: set(master.node.alive) == {source.sandbox_id})
    await eventually(lambda: master.node.snapshots == {})


async def test_a_client_that_leaves_when_some_have_started_leaves_no_fork(master: Master) -> None:
    source = await master.create()
    started = asyncio.Event()
    create = master.node.create

    async def one_only(spec: object) -> None:
        if started.is_set():
            await asyncio.Event().wait()
        started.set()
        await create(spec)  # type: ignore[arg-type]

    master.node.create = one_only  # type: ignore[method-assign, assignment]
    forking = asyncio.create_task(master.service.fork(source.sandbox_id, 3, 60))
    await eventually(lambda: len(master.node.alive) == 2)
    forking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await forking
    await eventually(lambda: master.service.count() == 1)
    await eventually(lambda: set(master.node.alive) == {source.sandbox_id})


async def test_a_client_that_leaves_during_the_capture_leaves_nothing(master: Master) -> None:
    source = await master.create()
    gate = master.node.close_gate("snapshot")
    forking = asyncio.create_task(master.service.fork(source.sandbox_id, 3, 60))
    await master.node.called("snapshot")
    forking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await forking
    gate.set()
    await eventually(lambda: bool(master.node.calls_of("delete_snapshot")))
    await eventually(lambda: master.node.snapshots == {})
    assert set(master.node.alive) == {source.sandbox_id}


async def test_the_source_may_end_while_its_forks_start(master: Master) -> None:
    source = await master.create()
    gate = master.node.close_gate("create")
    forking = asyncio.create_task(master.service.fork(source.sandbox_id, 2, 60))
    await master.node.called("create", 3)
    await master.service.delete(source.sandbox_id)
    gate.set()
    assert all(isinstance(result, Sandbox) for result in await forking)


async def test_what_is_busy_or_wrong_is_refused(master: Master) -> None:
    source = await master.create()
    with pytest.raises(InvalidInput):
        await master.service.fork(source.sandbox_id, 1, -2)
    gate = master.node.close_gate("pause")
    pausing = asyncio.create_task(master.service.pause(source.sandbox_id))
    await master.node.called("pause")
    with pytest.raises(Conflict):
        await master.service.fork(source.sandbox_id, 1, 60)
    gate.set()
    await pausing
