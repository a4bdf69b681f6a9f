"""The cubelet's own decisions, with a runtime that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import pytest

from cube.cubelet.node import Cubelet
from cube.cubelet.runtime.base import Capabilities, Instance, LocalGuest, Snapshot
from cube.envd.guest import Guest
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import SandboxNotFound, SandboxNotRunning, Unavailable
from cube.model.resources import Resources, ResourceUsage
from cube.model.sandbox import SandboxSpec
from cube.model.template import ImageConfig, Template

TEMPLATE = Template(
    template_id="tpl-1",
    names=("base",),
    image="image.erofs",
    image_bytes=1,
    fingerprint="f",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    config=ImageConfig(env={"A": "template", "B": "template"}, user="user", workdir="/work"),
    code_interpreter=True,
)


def spec(sandbox_id: str = "i1") -> SandboxSpec:
    return SandboxSpec(sandbox_id, TEMPLATE, Resources(), {"B": "request"}, "token")


@dataclass
class ToldInstance:
    sandbox_id: str
    address: str = "192.0.2.1"
    envd: LocalGuest = field(default_factory=lambda: LocalGuest(cast("Guest", object())))
    death: asyncio.Event = field(default_factory=asyncio.Event)

    async def died(self) -> None:
        await self.death.wait()


class ToldRuntime:
    name = "told"
    capabilities = Capabilities("container", True, False, True, False)

    def __init__(self) -> None:
        self.alive: dict[str, ToldInstance] = {}
        self.destroyed: list[str] = []
        self.found: set[str] = set()

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def remove(self) -> None: ...

    async def create(self, spec: SandboxSpec) -> ToldInstance:
        self.alive[spec.sandbox_id] = ToldInstance(spec.sandbox_id)
        return self.alive[spec.sandbox_id]

    async def restore(self, spec: SandboxSpec, snapshot: Snapshot) -> ToldInstance:
        return await self.create(spec)

    async def adopt(self, spec: SandboxSpec, *, paused: bool) -> ToldInstance:
        if spec.sandbox_id not in self.found:
            raise SandboxNotFound(spec.sandbox_id)
        return await self.create(spec)

    async def pause(self, instance: Instance) -> None: ...
    async def resume(self, instance: Instance) -> None: ...

    async def snapshot(self, instance: Instance, snapshot_id: str) -> Snapshot:
        raise NotImplementedError

    async def destroy(self, sandbox_id: str) -> None:
        self.destroyed.append(sandbox_id)

    async def stats(self, instance: Instance) -> ResourceUsage:
        return ResourceUsage(1.5, 2, 3, 4, 5)

    async def leftovers(self) -> set[str]:
        return set(self.found)


@pytest.fixture
def runtime() -> ToldRuntime:
    return ToldRuntime()


@pytest.fixture
async def cubelet(runtime: ToldRuntime) -> AsyncIterator[Cubelet]:
    async with Cubelet(runtime, lambda: [TEMPLATE]) as cubelet:
        yield cubelet


async def test_a_created_sandbox_is_visible_with_merged_environment(cubelet: Cubelet) -> None:
    await cubelet.create(spec())
    view = await cubelet.get("i1")
    assert view.env_vars == {"A": "template", "B": "request"}
    assert (view.default_user, view.default_workdir, view.access_token) == ("user", "/work", "token")
    assert cubelet.address("i1") == "192.0.2.1"
    assert [v.sandbox_id for v in cubelet.running()] == ["i1"]
    assert (await cubelet.usage("i1")).memory_bytes == 2


async def test_an_unknown_sandbox_is_not_found(cubelet: Cubelet) -> None:
    with pytest.raises(SandboxNotFound):
        await cubelet.get("nobody")
    with pytest.raises(SandboxNotFound):
        await cubelet.pause("nobody")
    assert cubelet.address("nobody") is None


async def test_a_paused_sandbox_does_not_run(cubelet: Cubelet) -> None:
    await cubelet.create(spec())
    await cubelet.pause("i1")
    with pytest.raises(SandboxNotRunning, match="paused"):
        await cubelet.get("i1")
    assert list(cubelet.running()) == []
    assert cubelet.address("i1") is None
    await cubelet.resume("i1")
    assert (await cubelet.get("i1")).sandbox_id == "i1"


async def test_destroying_closes_what_envd_kept(cubelet: Cubelet, runtime: ToldRuntime) -> None:
    closed = []

    class Drawer:
        async def close(self) -> None:
            closed.append(1)

    await cubelet.create(spec())
    (await cubelet.get("i1")).state["processes"] = Drawer()
    await cubelet.destroy("i1")
    assert closed == [1]
    assert runtime.destroyed == ["i1"]
    with pytest.raises(SandboxNotFound):
        await cubelet.get("i1")


async def test_destroying_what_is_unknown_still_reaches_the_runtime(cubelet: Cubelet, runtime: ToldRuntime) -> None:
    await cubelet.destroy("stray")
    assert runtime.destroyed == ["stray"]


async def test_a_death_is_reported_once(cubelet: Cubelet, runtime: ToldRuntime) -> None:
    reported: asyncio.Queue[str] = asyncio.Queue()
    cubelet.on_death(reported.put_nowait)
    await cubelet.create(spec())
    runtime.alive["i1"].death.set()
    assert await reported.get() == "i1"
    with pytest.raises(SandboxNotRunning, match="dead"):
        await cubelet.get("i1")
    assert cubelet.address("i1") is None
    assert list(cubelet.running()) == []
    assert reported.empty()
    assert runtime.destroyed == []


async def test_a_dead_sandbox_is_destroyed_like_any_other(cubelet: Cubelet, runtime: ToldRuntime) -> None:
    reported: asyncio.Queue[str] = asyncio.Queue()
    cubelet.on_death(reported.put_nowait)
    await cubelet.create(spec())
    runtime.alive["i1"].death.set()
    await cubelet.destroy(await reported.get())
    assert runtime.destroyed == ["i1"]
    with pytest.raises(SandboxNotFound):
        await cubelet.get("i1")


async def test_destroying_is_not_taken_for_a_death(cubelet: Cubelet, runtime: ToldRuntime) -> None:
    reported: list[str] = []
    cubelet.on_death(reported.append)
    await cubelet.create(spec())
    instance = runtime.alive["i1"]
    await cubelet.destroy("i1")
    instance.death.set()
    await cubelet.create(spec("i2"))
    assert reported == []


async def test_recovery_adopts_what_lives_and_removes_the_rest(cubelet: Cubelet, runtime: ToldRuntime) -> None:
    runtime.found = {"i1", "i2", "stray"}
    alive = await cubelet.recover([(spec("i1"), False), (spec("i2"), True), (spec("gone"), False)])
    assert alive == {"i1", "i2"}
    assert runtime.destroyed == ["stray"]
    assert [v.sandbox_id for v in cubelet.running()] == ["i1"]
    with pytest.raises(SandboxNotRunning):
        await cubelet.get("i2")


async def test_the_way_to_a_sandbox_is_forgotten_before_it_stops(cubelet: Cubelet) -> None:
    forgotten: list[str] = []
    cubelet.on_unreachable(forgotten.append)
    await cubelet.create(spec())
    assert forgotten == []
    await cubelet.pause("i1")
    await cubelet.destroy("i1")
    assert forgotten == ["i1", "i1"]


async def test_preparation_runs_beside_and_may_fail(runtime: ToldRuntime) -> None:
    prepared: asyncio.Queue[str] = asyncio.Queue()

    async def prepare(view: EnvdSandbox) -> None:
        prepared.put_nowait(view.sandbox_id)
        raise Unavailable("no kernel today")

    async with Cubelet(runtime, lambda: [TEMPLATE], prepare=prepare) as cubelet:
        await cubelet.create(spec())
        assert await prepared.get() == "i1"
        assert (await cubelet.get("i1")).sandbox_id == "i1"


async def test_leaving_lets_go_without_ending_sandboxes(runtime: ToldRuntime) -> None:
    async with Cubelet(runtime, lambda: [TEMPLATE]) as cubelet:
        await cubelet.create(spec())
    assert runtime.destroyed == []
