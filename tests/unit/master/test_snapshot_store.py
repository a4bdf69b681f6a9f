"""The records of snapshots, in a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.master.store.store import Store
from cube.model.mounts import HostMount
from support.fake_node import BASE, INTERPRETER
from unit.master.test_shelf import snapshot


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "cube.db")
    yield opened
    await opened.close()


async def test_what_is_recorded_is_read_again(store: Store, tmp_path: Path) -> None:
    first = snapshot(1, "team/x:v2", env_vars={"SECRET": "s3cret"}, metadata={"a": "b"}, memory=True)
    second = snapshot(2, template=INTERPRETER, host_mounts=(HostMount("/data/x", "/mnt", True),))
    await store.snapshots.insert(first)
    await store.snapshots.insert(second)
    await store.close()
    assert b"s3cret" not in (tmp_path / "cube.db").read_bytes()
    again = await Store.open(tmp_path / "cube.db")
    assert {s.snapshot_id: s for s in await again.snapshots.all()} == {s.snapshot_id: s for s in (first, second)}
    await again.close()


async def test_a_name_stands_for_one(store: Store) -> None:
    for number in (1, 2, 3):
        await store.snapshots.insert(snapshot(number, "x:default"))
    await store.snapshots.insert(snapshot(4))
    await store.snapshots.insert(snapshot(5))
    assert {s.snapshot_id for s in await store.snapshots.all()} == {snapshot(n).snapshot_id for n in (3, 4, 5)}
    await store.snapshots.delete(snapshot(3).snapshot_id)
    await store.snapshots.delete(snapshot(3).snapshot_id)
    assert {s.snapshot_id for s in await store.snapshots.all()} == {snapshot(n).snapshot_id for n in (4, 5)}


async def test_the_template_of_a_snapshot_is_not_forgotten(store: Store, tmp_path: Path) -> None:
    await store.snapshots.insert(snapshot(1))
    await store.close()
    again = await Store.open(tmp_path / "cube.db")
    await again.revisions.forget_unused()
    assert [s.template for s in await again.snapshots.all()] == [BASE]
    await again.close()
