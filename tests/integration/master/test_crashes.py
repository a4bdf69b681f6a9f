"""The service is killed, or lets go, at any moment: what runs afterwards is what is recorded, and clients were told."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cube.master.sandboxes.requests import ListQuery
from cube.master.snapshots.shelf import SnapshotQuery
from cube.master.store.store import Store
from cube.model.errors import SandboxNotFound
from cube.model.sandbox import Condition, PauseMode, Sandbox, SandboxState
from support.crash_victim import FileNode
from support.fake_clock import FakeClock
from support.fake_node import BASE, FakeNode
from support.master import eventually, running_master, settle
from support.sandboxes import make_sandbox

SUPPORT = Path(__file__).parents[2]


def run_until_killed(directory: Path, seed: int, lines: int) -> list[str]:
    """What the victim printed, which is killed as soon as it has printed so many lines."""
    victim = subprocess.Popen(
        [sys.executable, "-m", "support.crash_victim", str(directory), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
    )
    assert victim.stdout is not None
    try:
        printed = [victim.stdout.readline() for _ in range(lines)]
    finally:
        victim.send_signal(signal.SIGKILL)
    printed += victim.stdout.read().splitlines()
    victim.wait()
    victim.stdout.close()
    return [line.strip() for line in printed]


def expected(sandbox: Sandbox) -> Condition:
    if sandbox.state is SandboxState.RUNNING:
        return Condition.RUNNING
    return Condition.STOPPED if sandbox.pause_mode is PauseMode.FILESYSTEM else Condition.PAUSED


def surely_kept(printed: list[str]) -> set[str]:
    """Snapshots without a name, which nothing replaces, that nobody has asked to delete."""
    taken = {line[1:].partition(":")[0] for line in printed if line.startswith("*") and line.endswith(":None")}
    return taken - {line[1:] for line in printed if line.startswith("/")}


@pytest.mark.parametrize("seed", range(4))
async def test_kill_9_loses_nothing_and_leaks_nothing(tmp_path: Path, seed: int) -> None:
    printed = run_until_killed(tmp_path, seed, lines=random.Random(seed).randrange(20, 120))
    told = {line[1:] for line in printed if line.startswith("+")}
    given_up = {line[1:] for line in printed if line.startswith("-")}
    node = FileNode(tmp_path / "node")
    async with running_master(tmp_path, node, FakeClock()) as master:
        running = {sandbox.sandbox_id: sandbox for sandbox in master.service.page(ListQuery(limit=1000)).sandboxes}
        assert told - given_up <= set(running)
        assert set(node.alive) == set(running)
        assert node.alive == {key: expected(sandbox) for key, sandbox in running.items()}
        kept = {s.snapshot_id for s in master.service.snapshots.page(SnapshotQuery(limit=1000)).snapshots}
        assert surely_kept(printed) <= kept == set(node.snapshots) == {path.name for path in node.shelf.iterdir()}
        assert await master.recorded() == {key: sandbox.state for key, sandbox in running.items()}
        for sandbox_id in told - given_up:
            await master.service.connect(sandbox_id, 60)
        for sandbox_id in running:
            await master.service.delete(sandbox_id)
        assert node.alive == {}


@pytest.mark.parametrize(
    ("state", "paused", "afterwards"),
    [
        (SandboxState.CREATING, False, SandboxState.RUNNING),
        (SandboxState.RUNNING, False, SandboxState.RUNNING),
        (SandboxState.PAUSING, False, SandboxState.PAUSED),
        (SandboxState.PAUSING, True, SandboxState.PAUSED),
        (SandboxState.PAUSED, True, SandboxState.PAUSED),
        (SandboxState.RESUMING, True, SandboxState.RUNNING),
        (SandboxState.RESUMING, False, SandboxState.RUNNING),
        (SandboxState.KILLING, False, None),
    ],
)
async def test_what_was_under_way_is_completed_or_ended(
    tmp_path: Path, node: FakeNode, clock: FakeClock, state: SandboxState, paused: bool, afterwards: SandboxState | None
) -> None:
    sandbox = make_sandbox(state=state)
    store = await Store.open(tmp_path / "cube.db")
    await store.sandboxes.insert(sandbox, BASE)
    await store.close()
    node.alive[sandbox.sandbox_id] = Condition.PAUSED if paused else Condition.RUNNING
    async with running_master(tmp_path, node, clock) as master:
        if afterwards is None:
            assert node.alive == {}
            assert await master.recorded() == {}
            assert master.service.knows(sandbox.sandbox_id)
        else:
            assert node.alive == {sandbox.sandbox_id: Condition(afterwards)}
            assert master.service.get(sandbox.sandbox_id).state is afterwards
            assert await master.recorded() == {sandbox.sandbox_id: afterwards}


async def test_what_died_meanwhile_is_recorded_as_ended(tmp_path: Path, node: FakeNode, clock: FakeClock) -> None:
    async with running_master(tmp_path, node, clock) as master:
        sandbox = await master.create()
    node.alive.clear()
    async with running_master(tmp_path, node, clock) as master:
        with pytest.raises(SandboxNotFound):
            master.service.get(sandbox.sandbox_id)
        assert await master.recorded() == {}


async def test_what_nobody_knows_is_ended(tmp_path: Path, node: FakeNode, clock: FakeClock) -> None:
    node.alive["i0stranger"] = Condition.RUNNING
    async with running_master(tmp_path, node, clock):
        assert node.alive == {}


async def test_a_sandbox_of_another_runtime_is_not_taken_over(tmp_path: Path, node: FakeNode, clock: FakeClock) -> None:
    async with running_master(tmp_path, node, clock):
        store = await Store.open(tmp_path / "cube.db")
        await store.sandboxes.insert(make_sandbox(runtime="other"), BASE)
        await store.close()
    async with running_master(tmp_path, node, clock) as master:
        assert master.service.count() == 0


async def test_a_death_during_the_takeover_is_not_missed(tmp_path: Path, clock: FakeClock) -> None:
    class Fragile(FakeNode):
        async def recover(self, sandboxes, snapshots):  # type: ignore[no-untyped-def]
            found = await super().recover(sandboxes, snapshots)
            for sandbox_id in found.sandboxes:
                self.die(sandbox_id)
            return found

    node = Fragile()
    async with running_master(tmp_path, node, clock) as master:
        await master.create()
    async with running_master(tmp_path, node, clock) as master:
        await eventually(lambda: master.service.count() == 0)
        await settle()
        assert await master.recorded() == {}


async def test_a_sandbox_keeps_its_template_when_that_is_removed(
    tmp_path: Path, node: FakeNode, clock: FakeClock
) -> None:
    async with running_master(tmp_path, node, clock) as master:
        sandbox = await master.create()
    node.template_list.clear()
    async with running_master(tmp_path, node, clock) as master:
        assert node.specs[sandbox.sandbox_id].template == BASE
        assert master.service.get(sandbox.sandbox_id) == sandbox
