"""Creates with an idempotency key, over a real database, with crashes and clients that leave."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from cube.master.sandboxes.requests import CreateSandbox, IdempotencyKey
from cube.model.errors import Conflict, HostError, KeyReused, Unavailable
from cube.model.sandbox import Condition
from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import Master, running_master, settle

KEY = IdempotencyKey("k-1", "alice")
WISH = CreateSandbox("base", 3600, env_vars={"PASSWORD": "hunter2"})


async def test_the_same_key_gives_the_same_sandbox(master: Master) -> None:
    first = await master.service.create(WISH, KEY)
    again = await master.service.create(WISH, KEY)
    assert again.sandbox_id == first.sandbox_id
    assert len(master.node.calls_of("create")) == 1


@pytest.mark.parametrize("other", [IdempotencyKey("k-2", "alice"), IdempotencyKey("k-1", "bob"), None])
async def test_another_key_another_caller_or_none_gives_another_sandbox(
    master: Master, other: IdempotencyKey | None
) -> None:
    first = await master.service.create(WISH, KEY)
    assert (await master.service.create(WISH, other)).sandbox_id != first.sandbox_id


@pytest.mark.parametrize(
    "changed", [CreateSandbox("base", 61), CreateSandbox("code-interpreter-v1", 3600), CreateSandbox("base", 3600)]
)
async def test_another_request_with_the_key_is_refused(master: Master, changed: CreateSandbox) -> None:
    await master.service.create(WISH, KEY)
    with pytest.raises(KeyReused):
        await master.service.create(changed, KEY)
    assert len(master.node.calls_of("create")) == 1


async def test_a_retry_waits_for_the_first(master: Master) -> None:
    gate = master.node.close_gate("create")
    requests = [asyncio.create_task(master.service.create(WISH, KEY)) for _ in range(5)]
    await master.node.called("create")
    with pytest.raises(KeyReused):
        await master.service.create(CreateSandbox("base", 1), KEY)
    assert not any(request.done() for request in requests)
    gate.set()
    assert len({sandbox.sandbox_id for sandbox in await asyncio.gather(*requests)}) == 1
    assert len(master.node.alive) == 1


async def test_the_creation_goes_on_when_its_client_leaves(master: Master) -> None:
    gate = master.node.close_gate("create")
    request = asyncio.create_task(master.service.create(WISH, KEY))
    started = await master.node.called("create")
    request.cancel()
    await settle()
    assert request.cancelled()
    gate.set()
    assert (await master.service.create(WISH, KEY)).sandbox_id == started


async def test_a_failure_is_told_to_all_and_frees_the_key(master: Master) -> None:
    gate = master.node.close_gate("create")
    master.node.fail("create", HostError("no luck"))
    requests = [asyncio.create_task(master.service.create(WISH, KEY)) for _ in range(2)]
    await master.node.called("create")
    gate.set()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["no luck", "no luck"]
    await master.service.create(CreateSandbox("base", 1), KEY)


async def test_a_key_whose_sandbox_has_ended_says_so(master: Master) -> None:
    sandbox = await master.service.create(WISH, KEY)
    await master.service.delete(sandbox.sandbox_id)
    with pytest.raises(Conflict, match="new key"):
        await master.service.create(WISH, KEY)


async def test_a_paused_sandbox_is_the_same_one(master: Master) -> None:
    sandbox = await master.service.create(WISH, KEY)
    await master.service.pause(sandbox.sandbox_id)
    assert (await master.service.create(WISH, KEY)).sandbox_id == sandbox.sandbox_id


async def test_keys_survive_a_restart_for_a_day(tmp_path: Path) -> None:
    node, clock = FakeNode(), FakeClock()
    async with running_master(tmp_path, node, clock) as master:
        first = await master.service.create(WISH, KEY)
    async with running_master(tmp_path, node, clock) as master:
        assert (await master.service.create(WISH, KEY)).sandbox_id == first.sandbox_id
        with pytest.raises(KeyReused):
            await master.service.create(CreateSandbox("base", 1), KEY)
        clock.set_wall(timedelta(hours=24, seconds=1).total_seconds())
        assert (await master.service.create(CreateSandbox("base", 1), KEY)).sandbox_id != first.sandbox_id


@pytest.mark.parametrize("started", [True, False], ids=["after it started", "before it started"])
async def test_a_crash_during_the_creation_leaves_one_sandbox(tmp_path: Path, started: bool) -> None:
    node, clock = FakeNode(), FakeClock()
    master = Master(tmp_path, node, clock)
    await master.start()
    node.close_gate("create")
    request = asyncio.create_task(master.service.create(WISH, KEY))
    first = await node.called("create")
    await master.store.close()  # nothing more is recorded, as after a crash
    if started:
        node.alive[first] = Condition.RUNNING
    node.gates.clear()
    async with running_master(tmp_path, node, clock) as restarted:
        again = await restarted.service.create(WISH, KEY)
        assert (again.sandbox_id == first) is started
        assert list(node.alive) == [again.sandbox_id]
    request.cancel()
    await asyncio.wait({request})
    await master.stop()


async def test_a_create_that_is_deleted_while_it_starts_frees_its_key(master: Master) -> None:
    gate = master.node.close_gate("create")
    request = asyncio.create_task(master.service.create(WISH, KEY))
    first = await master.node.called("create")
    await master.service.delete(first)
    with pytest.raises(Conflict):
        await request
    gate.set()
    assert (await master.service.create(WISH, KEY)).sandbox_id != first


async def test_a_shutdown_cuts_waiting_creates_off_with_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cube.master.sandboxes.service._GRACE_S", 0)
    master = Master(tmp_path, FakeNode(), FakeClock())
    await master.start()
    master.node.close_gate("create")
    request = asyncio.create_task(master.service.create(WISH, KEY))
    await master.node.called("create")
    await master.stop()
    with pytest.raises((Unavailable, Conflict)):
        await request


async def test_old_keys_are_forgotten_in_portions(master: Master) -> None:
    store = master.store.idempotency
    now = master.clock.now()
    for number in range(600):
        claim = store.claim("alice", str(number), b"")
        moment = now - timedelta(hours=1) if number else now
        await master.store._writer.submit(store.keeping(claim, "i0", moment))
    assert [await store.prune(now) for _ in range(3)] == [500, 99, 0]


def files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def test_neither_key_nor_request_is_in_the_files(master: Master, tmp_path: Path) -> None:
    await master.service.create(WISH, IdempotencyKey("KEY-IN-CLEAR", "CALLER-IN-CLEAR"))
    written = files(tmp_path)
    assert b"IN-CLEAR" not in written
    assert b"hunter2" not in written
