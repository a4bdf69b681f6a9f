"""One client at a time: what each call does, and what it leaves in the database."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from cube.master.sandboxes.lifecycle import VisibleState
from cube.master.sandboxes.requests import CreateSandbox, ListQuery
from cube.master.sandboxes.service import SandboxService
from cube.model.errors import (
    Conflict,
    HostError,
    InvalidInput,
    SandboxNotFound,
    SandboxNotRunning,
    TemplateNotFound,
    Unavailable,
    Unsupported,
)
from cube.model.sandbox import Condition, OnTimeout, SandboxState
from support.fake_node import BASE
from support.master import Master, eventually

UNKNOWN = "i0000000000000000000"


async def test_a_created_sandbox_runs_and_is_recorded(master: Master) -> None:
    sandbox = await master.create(metadata={"a": "b"}, env_vars={"X": "1"})
    assert sandbox.state is SandboxState.RUNNING
    assert sandbox.end_at == master.clock.now() + timedelta(seconds=60)
    assert (sandbox.template_id, sandbox.template_name, sandbox.runtime) == ("tpl-base", "base", "fake")
    assert master.service.get(sandbox.sandbox_id) == sandbox
    (record,) = await master.store.sandboxes.live()
    assert record.sandbox == sandbox


async def test_the_node_gets_everything_that_it_needs(master: Master) -> None:
    sandbox = await master.create(env_vars={"X": "1"})
    spec = master.node.specs[sandbox.sandbox_id]
    assert (spec.template, spec.resources, spec.env_vars) == (BASE, BASE.resources, {"X": "1"})
    assert spec.envd_access_token == sandbox.envd_access_token
    assert sandbox.envd_access_token is not None
    assert len(sandbox.envd_access_token) >= 32


async def test_tokens_and_ids_are_never_the_same(master: Master) -> None:
    sandboxes = [await master.create() for _ in range(5)]
    assert len({sandbox.sandbox_id for sandbox in sandboxes}) == 5
    assert len({sandbox.envd_access_token for sandbox in sandboxes}) == 5


async def test_an_unknown_template_starts_nothing(master: Master) -> None:
    with pytest.raises(TemplateNotFound):
        await master.service.create(CreateSandbox("nope", 60))
    assert master.node.calls == []
    assert master.service.count() == 0


@pytest.mark.parametrize("seconds", [-2, 3601])
async def test_a_timeout_out_of_range_is_refused_everywhere(master: Master, seconds: int) -> None:
    sandbox = await master.create()
    for attempt in (
        master.create(seconds),
        master.service.set_timeout(sandbox.sandbox_id, seconds),
        master.service.refresh(sandbox.sandbox_id, seconds),
        master.service.connect(sandbox.sandbox_id, seconds),
        master.service.resume(sandbox.sandbox_id, seconds),
    ):
        with pytest.raises(InvalidInput, match="3600"):
            await attempt


async def test_a_sandbox_that_may_not_run_here_is_refused(master: Master) -> None:
    own = master.settings.instance
    assert await master.service.create(CreateSandbox("base", 60, nodes=("elsewhere", own)))
    assert await master.service.create(CreateSandbox("base", 60, nodes=("127.0.0.1",)))
    with pytest.raises(Conflict, match="distributionScope"):
        await master.service.create(CreateSandbox("base", 60, nodes=("elsewhere",)))


async def test_what_the_node_refuses_leaves_nothing(master: Master) -> None:
    master.node.fail("create", Unavailable("busy"))
    with pytest.raises(Unavailable, match="busy"):
        await master.create()
    assert len(master.node.calls_of("destroy")) == 1
    assert master.service.count() == 0
    assert await master.recorded() == {}


async def test_a_defect_of_the_node_leaves_nothing_either(master: Master) -> None:
    master.node.fail("create", KeyError("defect"))
    with pytest.raises(KeyError):
        await master.create()
    assert master.service.count() == 0


async def test_deleting_ends_a_sandbox_once(master: Master) -> None:
    sandbox = await master.create()
    await master.service.delete(sandbox.sandbox_id)
    assert master.node.alive == {}
    assert await master.recorded() == {}
    with pytest.raises(SandboxNotFound):
        await master.service.delete(sandbox.sandbox_id)
    assert len(master.node.calls_of("destroy")) == 1


async def test_an_ended_sandbox_is_known_but_not_found(master: Master) -> None:
    sandbox = await master.create()
    await master.service.delete(sandbox.sandbox_id)
    assert master.service.knows(sandbox.sandbox_id)
    assert not master.service.knows(UNKNOWN)
    with pytest.raises(SandboxNotFound):
        master.service.get(sandbox.sandbox_id)


async def test_calls_about_an_unknown_sandbox_say_so(master: Master) -> None:
    service = master.service
    for attempt in (
        service.delete(UNKNOWN),
        service.set_timeout(UNKNOWN, 1),
        service.refresh(UNKNOWN, 1),
        service.connect(UNKNOWN, 1),
        service.pause(UNKNOWN),
        service.resume(UNKNOWN, 1),
        service.metrics(UNKNOWN),
        service.wake(UNKNOWN),
    ):
        with pytest.raises(SandboxNotFound):
            await attempt


async def test_pause_and_resume(master: Master) -> None:
    sandbox = await master.create()
    await master.service.pause(sandbox.sandbox_id)
    assert master.node.alive == {sandbox.sandbox_id: Condition.PAUSED}
    assert await master.recorded() == {sandbox.sandbox_id: SandboxState.PAUSED}
    with pytest.raises(Conflict, match="paused"):
        await master.service.pause(sandbox.sandbox_id)
    master.clock.advance(1000)
    resumed = await master.service.resume(sandbox.sandbox_id, 30, OnTimeout.PAUSE)
    assert resumed == replace(sandbox, end_at=master.clock.now() + timedelta(seconds=30), on_timeout=OnTimeout.PAUSE)
    assert master.node.alive == {sandbox.sandbox_id: Condition.RUNNING}
    assert await master.recorded() == {sandbox.sandbox_id: SandboxState.RUNNING}
    with pytest.raises(Conflict, match="running"):
        await master.service.resume(sandbox.sandbox_id, 30)


async def test_a_paused_sandbox_does_not_expire(master: Master) -> None:
    sandbox = await master.create(seconds=10)
    await master.service.pause(sandbox.sandbox_id)
    await master.pass_time(100_000)
    assert master.service.get(sandbox.sandbox_id).state is SandboxState.PAUSED


async def test_a_failed_pause_leaves_it_running(master: Master) -> None:
    sandbox = await master.create()
    master.node.fail("pause", HostError("no"))
    with pytest.raises(HostError):
        await master.service.pause(sandbox.sandbox_id)
    assert master.service.get(sandbox.sandbox_id) == sandbox
    await master.service.pause(sandbox.sandbox_id)


async def test_a_failed_resume_leaves_it_paused(master: Master) -> None:
    sandbox = await master.create()
    await master.service.pause(sandbox.sandbox_id)
    master.node.fail("resume", HostError("no"))
    with pytest.raises(HostError):
        await master.service.connect(sandbox.sandbox_id, 60)
    assert master.service.get(sandbox.sandbox_id).state is SandboxState.PAUSED
    await master.service.resume(sandbox.sandbox_id, 60)


async def test_a_runtime_that_cannot_pause_says_so(master: Master) -> None:
    sandbox = await master.create()
    master.node.capabilities = replace(master.node.capabilities, pause=False)
    with pytest.raises(Unsupported):
        await master.service.pause(sandbox.sandbox_id)
    with pytest.raises(Unsupported):
        await master.create(on_timeout=OnTimeout.PAUSE)


async def test_a_timeout_can_be_shortened_and_extended(master: Master) -> None:
    sandbox = await master.create(seconds=60)
    for seconds in (10, 1000):
        await master.service.set_timeout(sandbox.sandbox_id, seconds)
        end_at = master.clock.now() + timedelta(seconds=seconds)
        assert master.service.get(sandbox.sandbox_id).end_at == end_at
        assert (await master.store.sandboxes.live())[0].sandbox.end_at == end_at


@pytest.mark.parametrize("call", ["refresh", "connect"])
async def test_refresh_and_connect_only_extend(master: Master, call: str) -> None:
    sandbox = await master.create(seconds=60)
    await getattr(master.service, call)(sandbox.sandbox_id, 30)
    assert master.service.get(sandbox.sandbox_id).end_at == sandbox.end_at
    await getattr(master.service, call)(sandbox.sandbox_id, 90)
    assert master.service.get(sandbox.sandbox_id).end_at == sandbox.end_at + timedelta(seconds=30)


async def test_connect_resumes_what_is_paused(master: Master) -> None:
    sandbox = await master.create()
    assert not (await master.service.connect(sandbox.sandbox_id, 60)).resumed
    await master.service.pause(sandbox.sandbox_id)
    connected = await master.service.connect(sandbox.sandbox_id, 60)
    assert connected.resumed
    assert connected.sandbox.state is SandboxState.RUNNING
    assert connected.sandbox.envd_access_token == sandbox.envd_access_token


async def test_the_timeout_of_a_paused_sandbox_cannot_be_set(master: Master) -> None:
    sandbox = await master.create()
    await master.service.pause(sandbox.sandbox_id)
    with pytest.raises(Conflict, match="paused"):
        await master.service.set_timeout(sandbox.sandbox_id, 60)


async def test_traffic_wakes_only_what_asked_for_it(master: Master) -> None:
    sleeper, light = await master.create(), await master.create(auto_resume=True)
    for sandbox in (sleeper, light):
        assert await master.service.wake(sandbox.sandbox_id) == sandbox
        await master.service.pause(sandbox.sandbox_id)
    with pytest.raises(SandboxNotRunning, match="paused"):
        await master.service.wake(sleeper.sandbox_id)
    woken = await master.service.wake(light.sandbox_id)
    assert woken.state is SandboxState.RUNNING
    assert woken.end_at == master.clock.now() + timedelta(seconds=300)


async def test_listing(master: Master) -> None:
    sandboxes = []
    for number in range(3):
        sandboxes.append(await master.create(metadata={"n": str(number)}))
        master.clock.advance(1)
    await master.service.pause(sandboxes[0].sandbox_id)
    await master.service.delete(sandboxes[1].sandbox_id)
    listed = [sandbox.sandbox_id for sandbox in master.service.page(ListQuery()).sandboxes]
    assert listed == [sandboxes[2].sandbox_id, sandboxes[0].sandbox_id]
    paused = master.service.page(ListQuery(states=frozenset({VisibleState.PAUSED}))).sandboxes
    assert [sandbox.sandbox_id for sandbox in paused] == [sandboxes[0].sandbox_id]


async def test_metrics_are_taken_when_asked_and_kept(master: Master) -> None:
    sandbox = await master.create()
    for cpu_seconds in (1.0, 6.0):
        master.clock.advance(10)
        master.node.cpu_seconds = cpu_seconds
        samples = await master.service.metrics(sandbox.sandbox_id)
        await master.service.metrics(sandbox.sandbox_id)
    assert [sample.cpu_used_pct for sample in samples] == [10.0, 50.0]
    assert len(master.node.calls_of("stats")) == 2
    late = await master.service.metrics(sandbox.sandbox_id, start=master.clock.now())
    assert [sample.cpu_used_pct for sample in late] == [50.0]


async def test_metrics_are_taken_unasked(master: Master) -> None:
    """A client that looks later sees what was before it looked."""
    sandbox, paused = await master.create(), await master.create()
    await master.service.pause(paused.sandbox_id)
    master.node.fail("stats", HostError("once"))
    settings = master.settings.model_copy(update={"metrics_interval": 0.001})
    other = SandboxService(master.node, master.store, settings, clock=master.clock)
    await other.start()
    try:
        for taken in (2, 3, 4):  # the first fails
            await eventually(lambda taken=taken: len(master.node.calls_of("stats")) >= taken)
            master.clock.advance(5)
        samples = await other.metrics(sandbox.sandbox_id, end=master.clock.now() - timedelta(seconds=5))
        assert len(samples) >= 2
        assert await other.metrics(paused.sandbox_id) == []
    finally:
        await other.close()


async def test_metrics_of_many_leave_out_what_is_not_there(master: Master) -> None:
    running, paused, ended = [await master.create() for _ in range(3)]
    await master.service.pause(paused.sandbox_id)
    await master.service.delete(ended.sandbox_id)
    ids = [running.sandbox_id, paused.sandbox_id, ended.sandbox_id, UNKNOWN]
    assert set(await master.service.metrics_of_many(ids)) == {running.sandbox_id}


async def test_metrics_of_a_sandbox_that_dies_while_asked(master: Master) -> None:
    sandbox = await master.create()
    master.node.fail("stats", SandboxNotFound(sandbox.sandbox_id))
    assert await master.service.metrics(sandbox.sandbox_id) == []


async def test_a_sandbox_that_the_node_has_in_stock_is_used_under_its_own_id(master: Master) -> None:
    master.node.stocked = ["istocked0000000000000"]
    sandbox = await master.create()
    assert sandbox.sandbox_id == "istocked0000000000000"
    assert master.node.specs.keys() == {"istocked0000000000000"}
    assert master.service.get(sandbox.sandbox_id) == sandbox
    assert await master.recorded() == {sandbox.sandbox_id: SandboxState.RUNNING}
    assert (await master.create()).sandbox_id != sandbox.sandbox_id
