"""Layers that several builds use, make and replace at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cube.cubelet.agent import NodeAgent
from cube.master.builds import runner as runner_module
from cube.master.builds.cache import LayerCache
from cube.master.builds.layers import Layer, keys
from cube.master.builds.logs import BuildLog
from cube.master.builds.runner import AT_HOME, Base, Runner
from cube.master.builds.surroundings import Surroundings
from cube.master.builds.uploads import Uploads
from cube.master.builds.workshop import Workshop
from cube.master.sandboxes.clock import SystemClock
from cube.master.sandboxes.registry import Origin
from cube.master.store.builds import BuildTable
from cube.model.builds import Recipe, Step, StepKind
from support.fake_node import BASE
from unit.master.test_build_store import BUILD

AROUND = Surroundings("user", "/home/user", {})


class Node:
    """Remembers what snapshots there are."""

    runtime = "fake"

    def __init__(self) -> None:
        self.snapshots: set[str] = set()
        self.sandboxes: set[str] = set()

    async def create(self, spec: Any) -> None:
        await asyncio.sleep(0)
        assert spec.snapshot_id is None or spec.snapshot_id in self.snapshots
        self.sandboxes.add(spec.sandbox_id)

    async def destroy(self, sandbox_id: str) -> None:
        self.sandboxes.remove(sandbox_id)

    async def get(self, sandbox_id: str) -> object:
        return SimpleNamespace(sandbox_id=sandbox_id)

    async def snapshot(self, sandbox_id: str, snapshot_id: str, *, memory: bool) -> None:
        assert not memory
        await asyncio.sleep(0)
        self.snapshots.add(snapshot_id)

    async def delete_snapshot(self, snapshot_id: str) -> None:
        await asyncio.sleep(0)
        self.snapshots.remove(snapshot_id)


class Table:
    """Remembers every layer that was ever recorded."""

    def __init__(self) -> None:
        self.recorded: list[Layer] = []

    async def put_layer(self, layer: Layer) -> None:
        await asyncio.sleep(0)
        self.recorded.append(layer)

    async def delete_layer(self, key: str) -> None: ...

    def touch_layer(self, key: str, at: object) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def cache(node: Node, table: Table) -> LayerCache:
    return LayerCache(cast(NodeAgent, node), cast(BuildTable, table), SystemClock(), 16)


async def test_a_layer_that_is_made_anew_stays_as_long_as_a_build_starts_from_it(cache: LayerCache, node: Node) -> None:
    await cache.keep("key", "i1", AROUND)
    used = cache.find("key")
    assert used is not None
    async with cache.in_use(used):
        async with cache.in_use(used):
            await cache.keep("key", "i2", AROUND)
        assert used.snapshot_id in node.snapshots
    assert used.snapshot_id not in node.snapshots
    assert len(node.snapshots) == 1


async def test_a_layer_stays_although_its_place_is_needed(cache: LayerCache, node: Node) -> None:
    await cache.keep("key", "i1", AROUND)
    used = cache.find("key")
    assert used is not None
    async with cache.in_use(used):
        for number in range(16):
            await cache.keep(f"other-{number}", "i1", AROUND)
        assert cache.find("key") is None
        assert used.snapshot_id in node.snapshots
    assert used.snapshot_id not in node.snapshots


@pytest.fixture
def runner(cache: LayerCache, node: Node, monkeypatch: pytest.MonkeyPatch) -> Runner:
    async def carry_out(_workshop: Workshop, step: Step, around: Surroundings, _uploads: Uploads) -> Surroundings:
        await asyncio.sleep(0)
        return replace(around, user=step.args[0]) if step.kind is StepKind.USER else around

    async def answer(_self: Workshop, script: str, _around: Surroundings) -> str:
        assert script == "id -u"
        await asyncio.sleep(0)
        return "1000"

    monkeypatch.setattr(runner_module, "carry_out", carry_out)
    monkeypatch.setattr(Workshop, "answer", answer)
    return Runner(cast(NodeAgent, node), cast(Uploads, None), cache, SystemClock())


async def test_a_build_never_starts_from_an_image_whose_sudo_users_are_not_settled(
    runner: Runner, node: Node, table: Table
) -> None:
    base = Base(Origin(BASE), "image", AT_HOME)
    recipe = Recipe(from_image="image", steps=(Step(StepKind.RUN, ("true",)),))

    async def build(pause: int) -> None:
        for _ in range(pause):
            await asyncio.sleep(0)
        await runner.build(BUILD, recipe, base, cast(BuildLog, SimpleNamespace(note=lambda *_: None)))

    await asyncio.gather(*(build(pause) for pause in range(30)))
    *_, prepared = keys(base.identity, base.before)
    assert any(layer.key == prepared for layer in table.recorded)
    assert all(layer.surroundings.sudo_users == ("1000",) for layer in table.recorded if layer.key == prepared)
    assert not node.sandboxes
