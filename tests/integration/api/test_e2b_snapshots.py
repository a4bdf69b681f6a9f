"""The unmodified E2B SDK: snapshots, forks and pauses by mode, as far as they do not touch the inside of a sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import AsyncSandbox, Sandbox
from e2b.exceptions import NotFoundException, SandboxException, SandboxNotFoundException

from cube.model.errors import SnapshotNotFound, StorageFull
from cube.model.sandbox import Condition
from support.api_server import ApiServer, running_api

UNKNOWN = "i0000000000000000000"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with running_api(tmp_path, max_sandboxes=30) as server:
        monkeypatch.setenv("E2B_API_KEY", "e2b_" + "0" * 40)
        monkeypatch.setenv("E2B_API_URL", server.url)
        yield server


def test_a_snapshot_is_taken_listed_used_and_deleted(server: ApiServer) -> None:
    sandbox = Sandbox.create("base")
    snapshot = sandbox.create_snapshot(name="team/mine:v2")
    assert snapshot.names == ["team/mine:v2"]
    assert [s.snapshot_id for s in sandbox.list_snapshots().next_items()] == [snapshot.snapshot_id]
    by_id, by_name = Sandbox.create(snapshot.snapshot_id), Sandbox.create("team/mine:v2")
    assert by_id.get_info().template_id == by_name.get_info().template_id == snapshot.snapshot_id
    assert Sandbox.delete_snapshot("team/mine:v2") is True
    assert Sandbox.delete_snapshot(snapshot.snapshot_id) is False
    with pytest.raises((NotFoundException, SandboxException), match="not found"):
        Sandbox.create(snapshot.snapshot_id)


@pytest.mark.parametrize("mode", ["full", "filesystem", None])
def test_every_mode_of_a_snapshot_is_accepted(server: ApiServer, mode: str | None) -> None:
    snapshot = Sandbox.create("base").create_snapshot(mode=mode)  # type: ignore[arg-type]
    assert snapshot.names == []
    assert server.node.memory_captured == [False]


def test_pages_and_filters(server: ApiServer) -> None:
    first, second = Sandbox.create("base"), Sandbox.create("base")
    taken = [(first, second)[n % 2].create_snapshot(name=f"x:v{n}").snapshot_id for n in range(5)]
    pages = Sandbox.list_snapshots(limit=2)
    found = []
    while pages.has_next:
        found.append([snapshot.snapshot_id for snapshot in pages.next_items()])
    assert [len(page) for page in found] == [2, 2, 1]
    assert sorted(snapshot_id for page in found for snapshot_id in page) == sorted(taken)
    assert [s.snapshot_id for s in Sandbox.list_snapshots(name="x:v3").next_items()] == [taken[3]]
    assert {s.snapshot_id for s in second.list_snapshots().next_items()} == {taken[1], taken[3]}


def test_a_snapshot_of_nobody(server: ApiServer) -> None:
    with pytest.raises(SandboxNotFoundException):
        Sandbox.create_snapshot(UNKNOWN)
    with pytest.raises(SandboxNotFoundException):
        Sandbox.fork(UNKNOWN)


def test_forks_and_their_failures(server: ApiServer) -> None:
    sandbox = Sandbox.create("base", metadata={"a": "b"})
    server.node.fail("create", StorageFull("no room"), SnapshotNotFound("snap-1"))
    forks = sandbox.fork(timeout=60, count=20)
    failures = [fork for fork in forks if isinstance(fork, Exception)]
    assert sorted(type(failure).__name__ for failure in failures) == ["NotFoundException", "SandboxException"]
    running = [fork for fork in forks if isinstance(fork, Sandbox)]
    assert len({fork.sandbox_id for fork in running}) == 18
    assert running[0].get_info().metadata == {"a": "b"}
    assert all(fork.kill() for fork in running)


def test_pauses_by_mode(server: ApiServer) -> None:
    sandbox = Sandbox.create("base")
    assert sandbox.pause(mode="filesystem") is True
    assert server.node.alive == {sandbox.sandbox_id: Condition.STOPPED}
    assert sandbox.pause(mode="filesystem") is False
    Sandbox.connect(sandbox.sandbox_id)
    assert sandbox.pause(mode="full") is True
    assert server.node.alive == {sandbox.sandbox_id: Condition.PAUSED}
    Sandbox.connect(sandbox.sandbox_id, on_resume="reboot")
    assert server.node.memory_resumed == [True, False]


def test_a_lifecycle_that_keeps_files_alone(server: ApiServer) -> None:
    lifecycle = {"on_timeout": {"action": "pause", "mode": "filesystem"}}
    sandbox = Sandbox.create("base", timeout=0, lifecycle=lifecycle)  # type: ignore[arg-type]
    while sandbox.get_info().state != "paused":
        pass
    assert server.node.alive == {sandbox.sandbox_id: Condition.STOPPED}


async def test_the_asynchronous_client(server: ApiServer) -> None:
    sandbox = await AsyncSandbox.create("base")
    snapshot = await sandbox.create_snapshot(name="mine")
    listed = await AsyncSandbox.list_snapshots(name="mine").next_items()
    assert [found.snapshot_id for found in listed] == [snapshot.snapshot_id]
    (fork,) = await sandbox.fork(timeout=60)
    assert isinstance(fork, AsyncSandbox)
    assert await AsyncSandbox.delete_snapshot(snapshot.snapshot_id) is True
