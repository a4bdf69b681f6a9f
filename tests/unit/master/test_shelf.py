"""Snapshots in memory: names, references, pages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from cube.master.snapshots.shelf import Shelf, SnapshotQuery
from cube.model.errors import InvalidInput, SnapshotNotFound
from cube.model.resources import Resources
from cube.model.snapshot import Snapshot
from support.fake_node import BASE
from support.sandboxes import NOON


def snapshot(number: int, name: str | None = None, **changes: Any) -> Snapshot:
    values: dict[str, Any] = {
        "snapshot_id": f"snap-{number:024x}",
        "name": name,
        "origin_sandbox_id": "i1",
        "template": BASE,
        "created_at": NOON + timedelta(seconds=number),
        "runtime": "fake",
        "memory": False,
        "resources": Resources(),
        "metadata": {},
        "env_vars": {},
    }
    return Snapshot(**values | changes)


def shelf_of(*snapshots: Snapshot) -> Shelf:
    shelf = Shelf()
    for entry in snapshots:
        shelf.put(entry)
    return shelf


def test_a_snapshot_is_found_by_id_and_by_name() -> None:
    plain, default, tagged = snapshot(1), snapshot(2, "team/x:default"), snapshot(3, "team/x:v2")
    shelf = shelf_of(plain, default, tagged)
    for reference, expected in {
        plain.snapshot_id: plain,
        default.snapshot_id: default,
        "team/x": default,
        "team/x:default": default,
        "team/x:v2": tagged,
    }.items():
        assert shelf.get(reference) is expected
    for unknown in ("x", "team/x:v3", "snap-", "", "x" * 1000):
        with pytest.raises(SnapshotNotFound) as caught:
            shelf.get(unknown)
        assert len(caught.value.message) < 200


def test_a_name_goes_to_the_newest_and_the_older_one_is_gone() -> None:
    first, second = snapshot(1, "x:default"), snapshot(2, "x:default")
    shelf = shelf_of(first)
    assert shelf.put(second) is first
    assert shelf.get("x") is second
    assert shelf.find(first.snapshot_id) is None
    assert shelf.take(second.snapshot_id) is second
    assert shelf.take(second.snapshot_id) is None
    assert (shelf.find("x"), len(shelf), shelf.ids()) == (None, 0, set())


def test_filters() -> None:
    snapshots = [snapshot(1, "x:default"), snapshot(2, "x:v2"), snapshot(3, "xy:default", origin_sandbox_id="i2")]
    shelf = shelf_of(*snapshots, snapshot(4))

    def found(**query: Any) -> list[int]:
        return [int(s.snapshot_id[5:], 16) for s in shelf.page(SnapshotQuery(**query)).snapshots]

    assert found() == [4, 3, 2, 1]
    assert found(sandbox_id="i1") == [4, 2, 1]
    assert found(sandbox_id="nobody") == []
    assert found(name="x") == [2, 1]
    assert found(name="x:v2") == [2]
    assert found(name="xy") == [3]
    assert found(name=snapshot(4).snapshot_id) == [4]
    assert found(name="x", sandbox_id="i2") == []


def test_pages_neither_repeat_nor_leave_out() -> None:
    shelf = shelf_of(*(snapshot(number) for number in range(7)))
    first = shelf.page(SnapshotQuery(limit=3))
    shelf.put(snapshot(99))
    shelf.take(first.snapshots[0].snapshot_id)
    second = shelf.page(SnapshotQuery(limit=3, next_token=first.next_token))
    third = shelf.page(SnapshotQuery(limit=3, next_token=second.next_token))
    numbers = [int(s.snapshot_id[5:], 16) for page in (first, second, third) for s in page.snapshots]
    assert numbers == [6, 5, 4, 3, 2, 1, 0]
    assert third.next_token is None
    with pytest.raises(InvalidInput, match="nextToken"):
        shelf.page(SnapshotQuery(next_token="nonsense"))
