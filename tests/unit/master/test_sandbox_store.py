from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from cube.master.store.store import Store
from cube.model.errors import HostError
from cube.model.resources import Resources
from cube.model.sandbox import Ingress, OnTimeout, SandboxState
from support.fake_node import BASE, INTERPRETER
from support.sandboxes import NOON, make_sandbox


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "cube.db")
    yield store
    await store.close()


async def reopened(store: Store, tmp_path: Path) -> Store:
    await store.close()
    return await Store.open(tmp_path / "cube.db")


def files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


RICH = make_sandbox(
    state=SandboxState.PAUSED,
    template_name=None,
    on_timeout=OnTimeout.PAUSE,
    auto_resume=True,
    resources=Resources(cpu_count=3, memory_mb=77, disk_mb=88, pids=99, open_files=111),
    metadata={"ключ": "значение", "": " "},
    env_vars={"A": "x=y\n", "B": ""},
    started_at=NOON + timedelta(microseconds=1),
    ingress=Ingress("traffic", "host:${PORT}"),
)


async def test_everything_comes_back_as_it_went_in(store: Store, tmp_path: Path) -> None:
    await store.sandboxes.insert(RICH, INTERPRETER)
    store = await reopened(store, tmp_path)
    (record,) = await store.sandboxes.live()
    assert record.sandbox == RICH
    assert record.template == INTERPRETER
    assert record.spec.env_vars == RICH.env_vars
    assert record.spec.envd_access_token == RICH.envd_access_token
    await store.close()


async def test_an_update_changes_state_deadline_and_action(store: Store) -> None:
    await store.sandboxes.insert(RICH, BASE)
    changed = replace(RICH, state=SandboxState.RUNNING, end_at=NOON + timedelta(days=1), on_timeout=OnTimeout.KILL)
    await store.sandboxes.update(changed)
    assert [record.sandbox for record in await store.sandboxes.live()] == [changed]


async def test_secrets_are_nowhere_in_the_files(store: Store, tmp_path: Path) -> None:
    secret = make_sandbox(envd_access_token="TOKEN-IN-CLEAR", env_vars={"NAME-IN-CLEAR": "VALUE-IN-CLEAR"})
    secret = replace(secret, ingress=Ingress("TRAFFIC-IN-CLEAR"))
    await store.sandboxes.insert(secret, BASE)
    written = files(tmp_path)
    assert secret.sandbox_id.encode() in written
    assert b"IN-CLEAR" not in written


async def test_a_lost_key_is_told_before_anything_is_ended(store: Store, tmp_path: Path) -> None:
    await store.sandboxes.insert(RICH, BASE)
    (tmp_path / "secret.key").unlink()
    store = await reopened(store, tmp_path)
    with pytest.raises(HostError, match="put back the key"):
        await store.sandboxes.live()
    await store.close()


async def test_the_ended_are_not_live(store: Store) -> None:
    first, second, third = make_sandbox(), make_sandbox(), make_sandbox()
    for sandbox in (first, second, third):
        await store.sandboxes.insert(sandbox, BASE)
    await store.sandboxes.end(second.sandbox_id, NOON + timedelta(hours=2))
    await store.sandboxes.end(first.sandbox_id, NOON + timedelta(hours=1))
    assert [record.sandbox.sandbox_id for record in await store.sandboxes.live()] == [third.sandbox_id]
    assert await store.sandboxes.ended(10) == [
        (first.sandbox_id, NOON + timedelta(hours=1)),
        (second.sandbox_id, NOON + timedelta(hours=2)),
    ]


async def pruned(store: Store, before: datetime, keep: int) -> list[int]:
    """Sizes of the portions."""
    portions = [await store.sandboxes.prune(before, keep=keep)]
    while portions[-1]:
        portions.append(await store.sandboxes.prune(before, keep=keep))
    return portions


async def test_pruning_forgets_what_ended_before(store: Store) -> None:
    old, recent, live = make_sandbox(), make_sandbox(), make_sandbox()
    for sandbox in (old, recent, live):
        await store.sandboxes.insert(sandbox, BASE)
    await store.sandboxes.end(old.sandbox_id, NOON)
    await store.sandboxes.end(recent.sandbox_id, NOON + timedelta(seconds=1))
    assert await pruned(store, NOON, keep=10) == [1, 0]
    assert await store.sandboxes.ended(10) == [(recent.sandbox_id, NOON + timedelta(seconds=1))]
    assert len(await store.sandboxes.live()) == 1


async def test_pruning_keeps_only_so_many_and_works_in_portions(store: Store) -> None:
    sandboxes = [make_sandbox() for _ in range(1200)]
    for number, sandbox in enumerate(sandboxes):
        store.sandboxes.insert(sandbox, BASE)
        store.sandboxes.end(sandbox.sandbox_id, NOON + timedelta(seconds=number))
    await store.sandboxes.insert(make_sandbox(), BASE)
    assert await pruned(store, NOON - timedelta(days=1), keep=100) == [500, 500, 100, 0]
    kept = [sandbox_id for sandbox_id, _ in await store.sandboxes.ended(1000)]
    assert kept == [sandbox.sandbox_id for sandbox in sandboxes[-100:]]
    assert len(await store.sandboxes.live()) == 1


async def test_templates_are_remembered_as_they_were(store: Store) -> None:
    rebuilt = replace(BASE, fingerprint="sha256:new")
    for template in (BASE, rebuilt, BASE):
        await store.sandboxes.insert(make_sandbox(), template)
    found = [record.template.fingerprint for record in await store.sandboxes.live()]
    assert sorted(found) == sorted([BASE.fingerprint, rebuilt.fingerprint, BASE.fingerprint])


async def test_templates_that_nobody_uses_are_forgotten_and_can_come_back(store: Store, tmp_path: Path) -> None:
    used, unused = make_sandbox(), make_sandbox()
    await store.sandboxes.insert(used, INTERPRETER)
    await store.sandboxes.insert(unused, BASE)
    await store.sandboxes.end(unused.sandbox_id, NOON)
    await pruned(store, NOON, keep=10)
    store = await reopened(store, tmp_path)
    await store.revisions.forget_unused()
    assert b"sha256:0" not in await store._writer.submit(_manifests)
    await store.sandboxes.insert(make_sandbox(), BASE)
    live = {record.template.template_id: record.template for record in await store.sandboxes.live()}
    assert live == {BASE.template_id: BASE, INTERPRETER.template_id: INTERPRETER}
    await store.close()


def _manifests(connection: Connection) -> bytes:
    return repr(connection.execute(text("SELECT manifest FROM template_revisions")).all()).encode()


async def test_an_id_is_used_once(store: Store) -> None:
    await store.sandboxes.insert(RICH, BASE)
    with pytest.raises(HostError, match="IntegrityError"):
        await store.sandboxes.insert(RICH, BASE)
