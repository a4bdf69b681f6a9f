"""Snapshots, rollback and pauses that keep files alone: what the master decides."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cube.master.sandboxes.requests import CreateSandbox
from cube.master.snapshots.shelf import SnapshotQuery
from cube.model.errors import (
    Conflict,
    HostError,
    InvalidInput,
    LimitExceeded,
    SandboxNotFound,
    SandboxNotRunning,
    SandboxStopped,
    SnapshotNotFound,
    StorageFull,
    TemplateNotFound,
    Unsupported,
)
from cube.model.mounts import HostMount
from cube.model.sandbox import Condition, OnTimeout, PauseMode, Sandbox, SandboxState
from cube.model.snapshot import Snapshot
from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import Master, eventually, running_master, settle


async def listed(master: Master) -> list[Snapshot]:
    return master.service.snapshots.page(SnapshotQuery()).snapshots


async def take(master: Master, sandbox: Sandbox, name: str | None = None) -> Snapshot:
    return await master.service.snapshots.take(sandbox.sandbox_id, name)


async def create_from(master: Master, reference: str, **wishes: object) -> Sandbox:
    return await master.service.create(CreateSandbox(reference, 60, **wishes))  # type: ignore[arg-type]


# -- taking -----------------------------------------------------------------------------------------------------------


async def test_a_snapshot_describes_what_it_was_taken_of(master: Master) -> None:
    sandbox = await master.create(metadata={"a": "b"}, env_vars={"A": "1"})
    snapshot = await take(master, sandbox, "mine")
    assert master.node.snapshots == {snapshot.snapshot_id: sandbox.sandbox_id}
    assert snapshot.names == ["mine:default"]
    assert (snapshot.metadata, snapshot.env_vars, snapshot.resources) == ({"a": "b"}, {"A": "1"}, sandbox.resources)
    assert not snapshot.memory
    assert await listed(master) == [snapshot]
    assert master.service.get(sandbox.sandbox_id) == sandbox


async def test_memory_is_captured_where_it_can_be(master: Master) -> None:
    sandbox = await master.create()
    master.node.capabilities = master.node.capabilities_with_memory()
    snapshots = master.service.snapshots
    assert (await snapshots.take(sandbox.sandbox_id)).memory
    assert (await snapshots.take(sandbox.sandbox_id, memory=True)).memory
    assert not (await snapshots.take(sandbox.sandbox_id, memory=False)).memory
    await master.service.pause(sandbox.sandbox_id, PauseMode.FILESYSTEM)
    assert not (await snapshots.take(sandbox.sandbox_id, memory=True)).memory
    assert master.node.memory_captured == [True, True, False, False]


@pytest.mark.parametrize("mode", [None, *PauseMode])
async def test_running_and_paused_sandboxes_can_be_captured(master: Master, mode: PauseMode | None) -> None:
    sandbox = await master.create()
    if mode is not None:
        await master.service.pause(sandbox.sandbox_id, mode)
    state = master.service.get(sandbox.sandbox_id)
    await take(master, sandbox)
    assert master.service.get(sandbox.sandbox_id) == state


async def test_a_runtime_that_cannot_capture_says_so(master: Master) -> None:
    sandbox = await master.create()
    master.node.capabilities = master.node.capabilities_without_snapshots()
    for call in (take(master, sandbox), master.service.fork(sandbox.sandbox_id, 1, 60)):
        with pytest.raises(Unsupported):
            await call


async def test_a_failed_capture_leaves_nothing(master: Master) -> None:
    sandbox = await master.create()
    master.node.fail("snapshot", StorageFull("no room"))
    with pytest.raises(StorageFull):
        await take(master, sandbox, "mine")
    assert await listed(master) == []
    assert await master.store.snapshots.all() == []
    await take(master, sandbox, "mine")


async def test_a_capture_that_cannot_be_recorded_is_removed(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = await master.create()
    with monkeypatch.context() as patch:

        def refuse(_: Snapshot) -> asyncio.Future[None]:
            refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            refused.set_exception(HostError("disk"))
            return refused

        patch.setattr(master.store.snapshots, "insert", refuse)
        with pytest.raises(HostError):
            await take(master, sandbox)
    await eventually(lambda: not master.node.snapshots)
    assert await listed(master) == []


async def test_a_sandbox_that_ends_meanwhile_takes_its_capture_along(master: Master) -> None:
    sandbox = await master.create()
    gate = master.node.close_gate("snapshot")
    capture = asyncio.create_task(take(master, sandbox))
    await master.node.called("snapshot")
    await master.service.delete(sandbox.sandbox_id)
    gate.set()
    with pytest.raises(Conflict, match="ended"):
        await capture
    assert (await listed(master), master.node.snapshots) == ([], {})


async def test_a_sandbox_that_ends_while_its_capture_is_recorded_takes_it_along(master: Master) -> None:
    sandbox = await master.create()
    capture = asyncio.create_task(take(master, sandbox))
    await eventually(lambda: bool(master.node.snapshots))
    await master.service.delete(sandbox.sandbox_id)
    if isinstance((await asyncio.gather(capture, return_exceptions=True))[0], Conflict):
        await eventually(lambda: not master.node.snapshots)
        await eventually(lambda: not master.service._background._tasks - {*_loops(master)})
        assert await master.store.snapshots.all() == []
    else:  # it was faster
        assert len(await listed(master)) == 1


def _loops(master: Master) -> set[asyncio.Task[None]]:
    return {task for task in master.service._background._tasks if task.get_name() in ("deadlines", "prune")}


async def test_a_client_that_leaves_does_not_cut_a_capture_off(master: Master) -> None:
    sandbox = await master.create()
    gate = master.node.close_gate("snapshot")
    capture = asyncio.create_task(take(master, sandbox))
    await master.node.called("snapshot")
    capture.cancel()
    gate.set()
    await asyncio.gather(capture, return_exceptions=True)
    await eventually(lambda: len(master.service.snapshots._shelf) == 1)


async def test_one_operation_at_a_time(master: Master) -> None:
    sandbox = await master.create()
    snapshot = await take(master, sandbox)
    service, sandbox_id = master.service, sandbox.sandbox_id
    gate = master.node.close_gate("snapshot")
    capture = asyncio.create_task(take(master, sandbox))
    await master.node.called("snapshot", 2)
    for call in (
        service.pause(sandbox_id),
        take(master, sandbox),
        service.fork(sandbox_id, 1, 60),
        service.snapshots.rollback(sandbox_id, snapshot.snapshot_id),
    ):
        with pytest.raises(Conflict):
            await call
    gate.set()
    await capture


async def test_there_is_a_limit(tmp_path: Path, node: FakeNode, clock: FakeClock) -> None:
    async with running_master(tmp_path, node, clock) as master:
        sandbox = await master.create()
        master.service.snapshots._most = 2
        await take(master, sandbox)
        await take(master, sandbox)
        with pytest.raises(LimitExceeded):
            await take(master, sandbox)


# -- names ------------------------------------------------------------------------------------------------------------


async def test_a_name_is_taken_over_and_what_had_it_is_deleted(master: Master) -> None:
    sandbox = await master.create()
    first = await take(master, sandbox, "mine")
    other = await take(master, sandbox, "mine:v2")
    second = await take(master, sandbox, "mine:default")
    assert {s.snapshot_id for s in await listed(master)} == {other.snapshot_id, second.snapshot_id}
    await eventually(lambda: set(master.node.snapshots) == {other.snapshot_id, second.snapshot_id})
    with pytest.raises(TemplateNotFound):
        await create_from(master, first.snapshot_id)
    assert (await create_from(master, "mine")).snapshot_id == second.snapshot_id


@pytest.mark.parametrize("name", ["", "Name", "a b", "../x", "x" * 500, "snap-" + "0" * 24, "a/b/c", "x:"])
async def test_a_name_that_is_none_is_refused(master: Master, name: str) -> None:
    sandbox = await master.create()
    with pytest.raises(InvalidInput) as caught:
        await take(master, sandbox, name)
    assert caught.value.field == "name"


@pytest.mark.parametrize("name", ["base", "base:default", "tpl-base", "team/code:v2"])
async def test_a_name_of_a_template_is_not_given_to_a_snapshot(master: Master, name: str) -> None:
    sandbox = await master.create()
    with pytest.raises(Conflict, match="template"):
        await take(master, sandbox, name)


# -- creating from ----------------------------------------------------------------------------------------------------


async def test_a_sandbox_from_a_snapshot(master: Master) -> None:
    source = await master.create(env_vars={"A": "1", "B": "1"}, metadata={"a": "b"}, public_traffic=False)
    snapshot = await take(master, source, "mine")
    sandbox = await create_from(master, "mine", env_vars={"B": "2"})
    spec = master.node.specs[sandbox.sandbox_id]
    assert (spec.snapshot_id, spec.template) == (snapshot.snapshot_id, snapshot.template)
    assert spec.env_vars == {"A": "1", "B": "2"}
    assert (sandbox.template_id, sandbox.template_name) == (snapshot.snapshot_id, "mine")
    assert (sandbox.metadata, sandbox.ingress.traffic_access_token) == ({}, None)
    assert spec.envd_access_token not in (None, source.envd_access_token)
    assert (await create_from(master, snapshot.snapshot_id)).template_name is None


async def test_mounts_are_external_and_mounted_again(master: Master) -> None:
    before = (HostMount("/data/a", "/mnt/a"), HostMount("/data/b", "/mnt/b", read_only=True))
    snapshot = await take(master, await master.create(host_mounts=before))
    plain = await create_from(master, snapshot.snapshot_id)
    assert master.node.specs[plain.sandbox_id].host_mounts == before
    instead = (HostMount("/data/c", "/mnt/a/deep"),)
    changed = await create_from(master, snapshot.snapshot_id, host_mounts=instead)
    assert master.node.specs[changed.sandbox_id].host_mounts == (before[1], *instead)


async def test_a_snapshot_that_is_deleted_meanwhile_is_not_found(master: Master) -> None:
    snapshot = await take(master, await master.create())
    del master.node.snapshots[snapshot.snapshot_id]
    with pytest.raises(SnapshotNotFound):
        await create_from(master, snapshot.snapshot_id)
    assert len(master.node.alive) == 1


# -- deleting ---------------------------------------------------------------------------------------------------------


async def test_of_two_deletes_one_succeeds(master: Master) -> None:
    snapshot = await take(master, await master.create(), "mine")
    deletes = [master.service.snapshots.delete(name) for name in ("mine", snapshot.snapshot_id)]
    results = await asyncio.gather(*deletes, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Snapshot", "SnapshotNotFound"]
    assert (await listed(master), master.node.snapshots, await master.store.snapshots.all()) == ([], {}, [])


async def test_snapshots_outlive_their_sandbox_and_the_service(
    tmp_path: Path, node: FakeNode, clock: FakeClock
) -> None:
    async with running_master(tmp_path, node, clock) as master:
        sandbox = await master.create(env_vars={"A": "1"})
        snapshot = await take(master, sandbox, "mine")
        await master.service.delete(sandbox.sandbox_id)
    node.template_list.clear()
    async with running_master(tmp_path, node, clock) as master:
        assert await listed(master) == [snapshot]
        sandbox = await create_from(master, "mine")
        assert node.specs[sandbox.sandbox_id].template == snapshot.template


async def test_a_restart_removes_what_is_not_recorded_and_forgets_what_is_gone(
    tmp_path: Path, node: FakeNode, clock: FakeClock
) -> None:
    async with running_master(tmp_path, node, clock) as master:
        sandbox = await master.create()
        kept, lost = await take(master, sandbox), await take(master, sandbox, "lost")
    del node.snapshots[lost.snapshot_id]
    node.snapshots["snap-half"] = sandbox.sandbox_id
    async with running_master(tmp_path, node, clock) as master:
        assert set(node.snapshots) == {kept.snapshot_id}
        assert await listed(master) == [kept]
        assert [s.snapshot_id for s in await master.store.snapshots.all()] == [kept.snapshot_id]


# -- rollback ---------------------------------------------------------------------------------------------------------


async def test_a_rollback_keeps_everything_but_the_content(master: Master) -> None:
    sandbox = await master.create()
    snapshot = await take(master, sandbox, "mine")
    assert await master.service.snapshots.rollback(sandbox.sandbox_id, "mine") == snapshot
    assert master.service.get(sandbox.sandbox_id) == sandbox
    assert master.node.calls_of("rollback") == [sandbox.sandbox_id]
    assert await master.recorded() == {sandbox.sandbox_id: SandboxState.RUNNING}
    assert snapshot in await listed(master)


async def test_a_rollback_that_is_refused_leaves_it_running(master: Master) -> None:
    sandbox = await master.create()
    snapshot = await take(master, sandbox)
    master.node.fail("rollback", StorageFull("no room"))
    with pytest.raises(StorageFull):
        await master.service.snapshots.rollback(sandbox.sandbox_id, snapshot.snapshot_id)
    assert master.service.get(sandbox.sandbox_id) == sandbox
    await master.pass_time(61)
    await eventually(lambda: master.node.alive == {})


async def test_a_rollback_that_fails_half_way_leaves_it_paused_with_its_files(master: Master) -> None:
    sandbox = await master.create(auto_resume=True)
    snapshot = await take(master, sandbox)
    master.node.fail("rollback", SandboxStopped("no start"))
    with pytest.raises(SandboxStopped):
        await master.service.snapshots.rollback(sandbox.sandbox_id, snapshot.snapshot_id)
    found = master.service.get(sandbox.sandbox_id)
    assert (found.state, found.pause_mode) == (SandboxState.PAUSED, PauseMode.FILESYSTEM)
    await settle()
    assert await master.recorded() == {sandbox.sandbox_id: SandboxState.PAUSED}
    assert (await master.service.connect(sandbox.sandbox_id, 60)).resumed


async def test_what_does_not_fit_is_refused_before_anything_is_done(master: Master) -> None:
    sandbox = await master.create()
    of_another = await take(master, await master.service.create(CreateSandbox("code-interpreter-v1", 60)))
    with pytest.raises(InvalidInput) as caught:
        await master.service.snapshots.rollback(sandbox.sandbox_id, of_another.snapshot_id)
    assert caught.value.field == "snapshotID"
    with pytest.raises(SnapshotNotFound):
        await master.service.snapshots.rollback(sandbox.sandbox_id, "nobody")
    own = await take(master, sandbox)
    with pytest.raises(SandboxNotFound):
        await master.service.snapshots.rollback("i0", own.snapshot_id)
    await master.service.pause(sandbox.sandbox_id)
    with pytest.raises(Conflict, match="paused"):
        await master.service.snapshots.rollback(sandbox.sandbox_id, own.snapshot_id)
    assert master.node.calls_of("rollback") == []


async def test_deletion_wins_over_a_rollback(master: Master) -> None:
    sandbox = await master.create()
    snapshot = await take(master, sandbox)
    master.node.close_gate("rollback")
    rollback = asyncio.create_task(master.service.snapshots.rollback(sandbox.sandbox_id, snapshot.snapshot_id))
    await master.node.called("rollback")
    await master.service.delete(sandbox.sandbox_id)
    with pytest.raises(Conflict, match="ended"):
        await rollback
    assert master.node.alive == {}


# -- pauses that keep files alone -------------------------------------------------------------------------------------


async def test_a_stopped_sandbox_is_resumed_by_request_alone(master: Master) -> None:
    sandbox = await master.create(auto_resume=True)
    await master.service.pause(sandbox.sandbox_id, PauseMode.FILESYSTEM)
    assert master.node.alive == {sandbox.sandbox_id: Condition.STOPPED}
    assert master.service.get(sandbox.sandbox_id).pause_mode is PauseMode.FILESYSTEM
    with pytest.raises(SandboxNotRunning):
        await master.service.wake(sandbox.sandbox_id)
    assert (await master.service.connect(sandbox.sandbox_id, 60)).sandbox.pause_mode is None
    await master.service.pause(sandbox.sandbox_id)
    assert (await master.service.wake(sandbox.sandbox_id)).state is SandboxState.RUNNING


@pytest.mark.parametrize("memory", [True, False])
async def test_a_client_may_start_a_paused_sandbox_from_its_files(master: Master, memory: bool) -> None:
    sandbox = await master.create()
    await master.service.pause(sandbox.sandbox_id)
    await master.service.connect(sandbox.sandbox_id, 60, memory=memory)
    assert master.node.memory_resumed == [memory]
    await master.service.pause(sandbox.sandbox_id)
    await master.service.resume(sandbox.sandbox_id, 60, memory=memory)
    assert master.node.memory_resumed == [memory, memory]


async def test_for_a_sandbox_that_runs_it_means_nothing(master: Master) -> None:
    sandbox = await master.create()
    assert not (await master.service.connect(sandbox.sandbox_id, 60, memory=False)).resumed
    assert master.node.memory_resumed == []


@pytest.mark.parametrize("mode", list(PauseMode))
async def test_the_timeout_pauses_as_the_creator_chose(master: Master, mode: PauseMode) -> None:
    sandbox = await master.create(on_timeout=OnTimeout.PAUSE, auto_pause_mode=mode)
    await master.pass_time(61)
    expected = Condition.PAUSED if mode is PauseMode.FULL else Condition.STOPPED
    await eventually(lambda: master.node.alive == {sandbox.sandbox_id: expected})
    await eventually(lambda: master.service.get(sandbox.sandbox_id).pause_mode is mode)


async def test_a_timeout_during_a_capture_acts_after_it(master: Master) -> None:
    sandbox = await master.create(on_timeout=OnTimeout.PAUSE)
    gate = master.node.close_gate("snapshot")
    capture = asyncio.create_task(take(master, sandbox))
    await master.node.called("snapshot")
    await master.pass_time(61)
    assert master.node.alive == {sandbox.sandbox_id: Condition.RUNNING}
    gate.set()
    await capture
    await eventually(lambda: master.node.alive == {sandbox.sandbox_id: Condition.PAUSED})


@pytest.mark.parametrize("call", ["pause", "resume"])
async def test_one_that_loses_its_processes_is_paused_with_its_files(master: Master, call: str) -> None:
    sandbox = await master.create()
    if call == "resume":
        await master.service.pause(sandbox.sandbox_id)
    master.node.fail(call, SandboxStopped("lost"))
    with pytest.raises(SandboxStopped):
        await (
            master.service.pause(sandbox.sandbox_id, PauseMode.FILESYSTEM)
            if call == "pause"
            else master.service.connect(sandbox.sandbox_id, 60, memory=False)
        )
    found = master.service.get(sandbox.sandbox_id)
    assert (found.state, found.pause_mode) == (SandboxState.PAUSED, PauseMode.FILESYSTEM)


@pytest.mark.parametrize(
    ("state", "mode", "condition", "afterwards"),
    [
        (SandboxState.PAUSING, PauseMode.FILESYSTEM, Condition.RUNNING, (SandboxState.PAUSED, PauseMode.FILESYSTEM)),
        (SandboxState.PAUSED, PauseMode.FILESYSTEM, Condition.STOPPED, (SandboxState.PAUSED, PauseMode.FILESYSTEM)),
        (SandboxState.RESUMING, PauseMode.FILESYSTEM, Condition.STOPPED, (SandboxState.PAUSED, PauseMode.FILESYSTEM)),
        (SandboxState.RESUMING, PauseMode.FULL, Condition.STOPPED, (SandboxState.PAUSED, PauseMode.FILESYSTEM)),
        (SandboxState.RESUMING, PauseMode.FILESYSTEM, Condition.RUNNING, (SandboxState.RUNNING, None)),
        (SandboxState.ROLLING_BACK, None, Condition.RUNNING, (SandboxState.RUNNING, None)),
        (SandboxState.ROLLING_BACK, None, Condition.STOPPED, (SandboxState.PAUSED, PauseMode.FILESYSTEM)),
        (SandboxState.RUNNING, None, Condition.STOPPED, (SandboxState.PAUSED, PauseMode.FILESYSTEM)),
    ],
)
async def test_what_was_under_way_at_a_crash(
    tmp_path: Path,
    node: FakeNode,
    clock: FakeClock,
    state: SandboxState,
    mode: PauseMode | None,
    condition: Condition,
    afterwards: tuple[SandboxState, PauseMode | None],
) -> None:
    async with running_master(tmp_path, node, clock) as master:
        sandbox = await master.create()
        entry = master.service._registry.get(sandbox.sandbox_id)
        entry.sandbox = sandbox = replace(entry.sandbox, state=state, pause_mode=mode)
        await master.store.sandboxes.update(sandbox)
    node.alive[sandbox.sandbox_id] = condition
    async with running_master(tmp_path, node, clock) as master:
        found = master.service.get(sandbox.sandbox_id)
        assert (found.state, found.pause_mode) == afterwards
        assert await master.recorded() == {sandbox.sandbox_id: found.state}
