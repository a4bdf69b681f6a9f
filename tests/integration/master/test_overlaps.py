"""What happens when several things are wanted of one sandbox at once, or of one node."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from cube.master.sandboxes.admission import Limits
from cube.master.sandboxes.requests import ListQuery
from cube.master.snapshots.shelf import SnapshotQuery
from cube.model.errors import Conflict, CubeError, HostError, LimitExceeded, SandboxNotFound, Unavailable
from cube.model.sandbox import Condition, PauseMode, Sandbox, SandboxState
from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import Master, eventually, running_master, settle


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures of the node are retried at once."""
    monkeypatch.setattr("cube.master.sandboxes.endings._FIRST_RETRY", 0.001)
    monkeypatch.setattr("cube.master.sandboxes.endings._LONGEST_RETRY", 0.001)


async def test_of_two_deletes_at_once_one_succeeds(master: Master) -> None:
    sandbox = await master.create()
    gate = master.node.close_gate("destroy")
    deletes = [asyncio.create_task(master.service.delete(sandbox.sandbox_id)) for _ in range(3)]
    await master.node.called("destroy")
    gate.set()
    results = await asyncio.gather(*deletes, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "SandboxNotFound", "SandboxNotFound"]
    assert len(master.node.calls_of("destroy")) == 1


async def test_a_sandbox_that_is_ending_is_not_found(master: Master) -> None:
    sandbox = await master.create()
    gate = master.node.close_gate("destroy")
    delete = asyncio.create_task(master.service.delete(sandbox.sandbox_id))
    await master.node.called("destroy")
    with pytest.raises(SandboxNotFound):
        master.service.get(sandbox.sandbox_id)
    assert master.service.page(ListQuery()).sandboxes == []
    for attempt in (master.service.pause(sandbox.sandbox_id), master.service.connect(sandbox.sandbox_id, 60)):
        with pytest.raises(SandboxNotFound):
            await attempt
    gate.set()
    await delete


async def test_a_delete_during_create_ends_it(master: Master) -> None:
    master.node.close_gate("create")
    creating = asyncio.create_task(master.create())
    sandbox_id = await master.node.called("create")
    await master.service.delete(sandbox_id)
    with pytest.raises(Conflict, match="ended"):
        await creating
    assert master.node.alive == {}
    assert await master.recorded() == {}


@pytest.mark.parametrize("operation", ["pause", "resume"])
async def test_a_delete_wins_over_an_operation(master: Master, operation: str) -> None:
    sandbox = await master.create()
    if operation == "resume":
        await master.service.pause(sandbox.sandbox_id)
    master.node.close_gate(operation)
    call = master.service.pause(sandbox.sandbox_id)
    if operation == "resume":
        call.close()
        call = master.service.resume(sandbox.sandbox_id, 60)  # type: ignore[assignment]
    under_way = asyncio.create_task(call)
    await master.node.called(operation)
    await master.service.delete(sandbox.sandbox_id)
    with pytest.raises(Conflict):
        await under_way
    assert master.node.alive == {}


async def test_a_client_that_leaves_during_create_leaves_nothing(master: Master) -> None:
    master.node.close_gate("create")
    creating = asyncio.create_task(master.create())
    await master.node.called("create")
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await eventually(lambda: master.service.count() == 0)
    assert len(master.node.calls_of("destroy")) == 1
    assert await master.recorded() == {}


async def test_a_client_that_leaves_the_moment_it_is_there_leaves_nothing(master: Master) -> None:
    """Cancelled at every step between the node's answer and the client's."""
    for steps in range(12):
        creating = asyncio.create_task(master.create())
        await master.node.called("create", steps + 1)
        for _ in range(steps):
            await asyncio.sleep(0)
        creating.cancel()
        await asyncio.wait({creating})
        if not creating.cancelled():
            await master.service.delete(creating.result().sandbox_id)
        await eventually(lambda: master.service.count() == 0)
    assert master.node.alive == {}


@pytest.mark.parametrize("operation", ["pause", "resume"])
async def test_a_client_that_leaves_does_not_stop_an_operation(master: Master, operation: str) -> None:
    sandbox = await master.create()
    if operation == "resume":
        await master.service.pause(sandbox.sandbox_id)
    gate = master.node.close_gate(operation)
    call = (
        master.service.pause(sandbox.sandbox_id)
        if operation == "pause"
        else master.service.connect(sandbox.sandbox_id, 60)
    )
    under_way = asyncio.ensure_future(call)
    await master.node.called(operation)
    under_way.cancel()
    await asyncio.wait({under_way})
    gate.set()
    wanted = SandboxState.PAUSED if operation == "pause" else SandboxState.RUNNING
    await eventually(lambda: master.service.get(sandbox.sandbox_id).state is wanted)


async def test_what_overlaps_a_pause_conflicts(master: Master) -> None:
    sandbox = await master.create()
    gate = master.node.close_gate("pause")
    pausing = asyncio.create_task(master.service.pause(sandbox.sandbox_id))
    await master.node.called("pause")
    for attempt in (
        master.service.pause(sandbox.sandbox_id),
        master.service.resume(sandbox.sandbox_id, 60),
        master.service.connect(sandbox.sandbox_id, 60),
        master.service.set_timeout(sandbox.sandbox_id, 60),
    ):
        with pytest.raises(Conflict, match="pausing"):
            await attempt
    gate.set()
    await pausing


async def test_connects_at_once_resume_once_and_all_succeed(master: Master) -> None:
    sandbox = await master.create(auto_resume=True)
    await master.service.pause(sandbox.sandbox_id)
    gate = master.node.close_gate("resume")
    first = asyncio.create_task(master.service.connect(sandbox.sandbox_id, 60))
    await master.node.called("resume")
    second = asyncio.create_task(master.service.connect(sandbox.sandbox_id, 90))
    wake = asyncio.create_task(master.service.wake(sandbox.sandbox_id))
    await settle()
    gate.set()
    assert (await first).resumed
    assert not (await second).resumed
    assert (await wake).state is SandboxState.RUNNING
    assert len(master.node.calls_of("resume")) == 1


async def test_connects_in_the_same_moment_all_succeed(master: Master) -> None:
    sandbox = await master.create(auto_resume=True)
    await master.service.pause(sandbox.sandbox_id)
    calls = [master.service.connect(sandbox.sandbox_id, 60) for _ in range(3)]
    results = await asyncio.gather(*calls, master.service.wake(sandbox.sandbox_id))
    assert len(results) == 4
    assert len(master.node.calls_of("resume")) == 1


async def test_a_death_ends_a_sandbox(master: Master) -> None:
    sandbox = await master.create()
    master.node.die(sandbox.sandbox_id)
    with pytest.raises(SandboxNotFound):
        master.service.get(sandbox.sandbox_id)
    await eventually(lambda: master.service.count() == 0)
    assert await master.recorded() == {}
    assert master.service.knows(sandbox.sandbox_id)


async def test_a_death_during_a_pause_ends_the_pause(master: Master) -> None:
    sandbox = await master.create()
    master.node.close_gate("pause")
    pausing = asyncio.create_task(master.service.pause(sandbox.sandbox_id))
    await master.node.called("pause")
    master.node.die(sandbox.sandbox_id)
    with pytest.raises(Conflict, match="ended"):
        await pausing
    await eventually(lambda: master.service.count() == 0)


@pytest.mark.usefixtures("impatient")
async def test_a_node_that_fails_to_destroy_is_asked_again(master: Master) -> None:
    sandbox = await master.create()
    # More of them than it can try until they are taken back.
    master.node.fail("destroy", HostError("busy"), KeyError("defect"), *[HostError("busy")] * 100_000)
    await master.service.delete(sandbox.sandbox_id)
    with pytest.raises(SandboxNotFound):
        master.service.get(sandbox.sandbox_id)
    assert await master.recorded() == {sandbox.sandbox_id: SandboxState.KILLING}
    assert master.service.count() == 1
    with pytest.raises(SandboxNotFound):
        await master.service.delete(sandbox.sandbox_id)
    master.node.failures["destroy"].clear()
    await eventually(lambda: master.service.count() == 0)
    assert master.node.alive == {}
    assert await master.recorded() == {}


async def test_a_full_node_refuses_and_takes_again(tmp_path: Path, node: FakeNode, clock: FakeClock) -> None:
    async with running_master(tmp_path, node, clock, Limits(max_sandboxes=2)) as master:
        sandbox = await master.create()
        await master.create()
        with pytest.raises(LimitExceeded):
            await master.create()
        assert len(node.calls_of("create")) == 2
        await master.service.delete(sandbox.sandbox_id)
        await master.create()


async def test_a_burst_queues_and_the_node_is_not_flooded(tmp_path: Path, node: FakeNode, clock: FakeClock) -> None:
    limits = Limits(max_sandboxes=100, concurrent_creates=3, queued_creates=5)
    async with running_master(tmp_path, node, clock, limits) as master:
        gate = node.close_gate("create")
        burst = [asyncio.create_task(master.create()) for _ in range(8)]
        await settle()
        assert len(node.calls_of("create")) == 3
        with pytest.raises(LimitExceeded, match="waiting"):
            await master.create()
        gate.set()
        assert len({sandbox.sandbox_id for sandbox in await asyncio.gather(*burst)}) == 8


async def test_a_queued_create_can_be_deleted(tmp_path: Path, node: FakeNode, clock: FakeClock) -> None:
    async with running_master(tmp_path, node, clock, Limits(100, concurrent_creates=1)) as master:
        gate = node.close_gate("create")
        first = asyncio.create_task(master.create())
        second = asyncio.create_task(master.create())
        await settle()
        second.cancel()
        await eventually(lambda: master.service.count() == 1)
        gate.set()
        await first
        assert len(node.calls_of("create")) == 1


async def test_a_service_that_shuts_down_takes_nothing_and_finishes_what_it_has(master: Master) -> None:
    sandbox = await master.create()
    gate = master.node.close_gate("pause")
    pausing = asyncio.create_task(master.service.pause(sandbox.sandbox_id))
    await master.node.called("pause")
    closing = asyncio.create_task(master.service.close())
    await settle()
    with pytest.raises(Unavailable):
        await master.create()
    gate.set()
    await closing
    await pausing
    assert await master.recorded() == {sandbox.sandbox_id: SandboxState.PAUSED}


FALLIBLE = ["pause", "resume", "destroy", "snapshot", "rollback", "create"]
CALLS = [
    *("pause", "connect", "resume", "set_timeout", "delete", "die"),
    *("stop", "fork", "snapshot", "rollback", "delete_snapshot"),
]


def condition(sandbox: Sandbox) -> Condition:
    """What the node should have of it."""
    if sandbox.state is SandboxState.RUNNING:
        return Condition.RUNNING
    return Condition.STOPPED if sandbox.pause_mode is PauseMode.FILESYSTEM else Condition.PAUSED


class RandomClients:
    """Clients that call whatever comes to their mind, on a node that fails now and then."""

    def __init__(self, master: Master, seed: int) -> None:
        self.master = master
        self.chance = random.Random(seed)

    async def run(self, number: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(self._client())

    async def _client(self) -> None:
        sandbox = await self.master.create()
        for _ in range(8):
            await asyncio.sleep(self.chance.random() / 500)
            if self.chance.random() < 0.1:
                self.master.node.fail(self.chance.choice(FALLIBLE), HostError("now and then"))
            with contextlib.suppress(CubeError):
                await self._call(sandbox.sandbox_id)

    async def _call(self, sandbox_id: str) -> None:
        service = self.master.service
        call = self.chance.choice(CALLS)
        if call in ("pause", "delete"):
            await getattr(service, call)(sandbox_id)
        elif call == "stop":
            await service.pause(sandbox_id, PauseMode.FILESYSTEM)
        elif call == "fork":
            await service.fork(sandbox_id, 2, 60)
        elif call == "snapshot":
            await service.snapshots.take(sandbox_id, self.chance.choice([None, "named", "other"]))
        elif call == "rollback":
            await service.snapshots.rollback(sandbox_id, self.chance.choice(["named", "other"]))
        elif call == "delete_snapshot":
            await service.snapshots.delete(self.chance.choice(["named", "other"]))
        elif call != "die":
            await getattr(self.master.service, call)(sandbox_id, 60)
        elif sandbox_id in self.master.node.alive:
            self.master.node.die(sandbox_id)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("seed", range(5))
async def test_whatever_is_done_at_once_ends_in_order(master: Master, seed: int) -> None:
    """Afterwards node, memory and database agree, and everything can be ended."""
    await RandomClients(master, seed).run(20)
    master.node.failures.clear()
    await eventually(lambda: not any(entry.ending for entry in master.service._registry))
    listed = {s.sandbox_id: s for s in master.service.page(ListQuery()).sandboxes}
    assert {key: condition(sandbox) for key, sandbox in listed.items()} == master.node.alive
    assert await master.recorded() == {key: sandbox.state for key, sandbox in listed.items()}
    kept = {s.snapshot_id for s in master.service.snapshots.page(SnapshotQuery()).snapshots}
    await eventually(lambda: set(master.node.snapshots) == kept)
    assert {s.snapshot_id for s in await master.store.snapshots.all()} == kept
    for sandbox_id in listed:
        await master.service.delete(sandbox_id)
    assert master.node.alive == {}
    assert await master.recorded() == {}
