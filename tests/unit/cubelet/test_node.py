"""The cubelet's own decisions, with a runtime that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from cube.cubelet.memory import MemoryGauge
from cube.cubelet.node import Cubelet
from cube.cubelet.runtime.base import Capabilities, Found, Instance, LocalGuest
from cube.cubelet.stock import Bounds
from cube.envd.guest import Guest
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import (
    HostError,
    SandboxNotFound,
    SandboxNotRunning,
    SandboxStopped,
    SnapshotNotFound,
    TemplateNotFound,
    Unavailable,
)
from cube.model.resources import Resources, ResourceUsage
from cube.model.sandbox import Condition, SandboxSpec
from cube.model.template import ImageConfig, Template
from support.fake_volumes import FakeVolumes

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
        self.captured: set[str] = set()
        #: Started ahead, and not handed out.
        self.nobodys: set[str] = set()
        #: What the next calls raise, one after the other; ``None`` lets one pass.
        self.failures: list[Exception | None] = []

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def remove(self) -> None: ...

    async def create(self, spec: SandboxSpec, *, ahead: bool = False) -> ToldInstance:
        self.alive[spec.sandbox_id] = ToldInstance(spec.sandbox_id)
        if ahead:
            self.nobodys.add(spec.sandbox_id)
        return self.alive[spec.sandbox_id]

    async def hand_out(self, instance: Instance) -> None:
        self._raise()
        self.nobodys.remove(instance.sandbox_id)

    async def adopt(self, spec: SandboxSpec, wanted: Condition) -> Found:
        if spec.sandbox_id not in self.found:
            raise SandboxNotFound(spec.sandbox_id)
        if wanted is Condition.STOPPED:
            return Found(wanted, None)
        return Found(wanted, await self.create(spec))

    async def pause(self, instance: Instance, *, memory: bool) -> Instance | None:
        self._raise()
        if memory:
            return instance
        self.alive.pop(instance.sandbox_id).death.set()
        return None

    async def resume(self, spec: SandboxSpec, instance: Instance | None, *, memory: bool) -> Instance:
        self._raise()
        return await self.create(spec) if instance is None or not memory else instance

    async def snapshot(
        self,
        spec: SandboxSpec,
        instance: Instance | None,
        snapshot_id: str,
        *,
        memory: bool,
        contexts: Mapping[str, Any] | None = None,
    ) -> None:
        self._raise()
        self.captured.add(snapshot_id)

    async def rollback(self, spec: SandboxSpec, instance: Instance, snapshot_id: str) -> None:
        self._raise()
        self.alive.pop(instance.sandbox_id).death.set()

    async def snapshots(self) -> set[str]:
        return set(self.captured)

    async def delete_snapshot(self, snapshot_id: str) -> None:
        self.captured.discard(snapshot_id)

    async def destroy(self, sandbox_id: str) -> None:
        self.destroyed.append(sandbox_id)

    async def stats(self, instance: Instance) -> ResourceUsage:
        return ResourceUsage(1.5, 2, 3, 4, 5)

    async def leftovers(self) -> set[str]:
        return set(self.found)

    def _raise(self) -> None:
        if self.failures and (error := self.failures.pop(0)) is not None:
            raise error


@pytest.fixture
def runtime() -> ToldRuntime:
    return ToldRuntime()


@pytest.fixture
async def cubelet(runtime: ToldRuntime) -> AsyncIterator[Cubelet]:
    async with Cubelet(runtime, lambda: [TEMPLATE], volumes=FakeVolumes()) as cubelet:
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
    runtime.found = {"i1", "i2", "i3", "stray"}
    runtime.captured = {"snap-1", "snap-2"}
    wanted = [
        (spec("i1"), Condition.RUNNING),
        (spec("i2"), Condition.PAUSED),
        (spec("i3"), Condition.STOPPED),
        (spec("gone"), Condition.RUNNING),
    ]
    recovered = await cubelet.recover(wanted, ["snap-2", "snap-3"])
    assert recovered.sandboxes == {"i1": Condition.RUNNING, "i2": Condition.PAUSED, "i3": Condition.STOPPED}
    assert recovered.snapshots == {"snap-2"}
    assert runtime.captured == {"snap-2"}
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

    async with Cubelet(runtime, lambda: [TEMPLATE], volumes=FakeVolumes(), prepare=prepare) as cubelet:
        await cubelet.create(spec())
        assert await prepared.get() == "i1"
        assert (await cubelet.get("i1")).sandbox_id == "i1"


async def test_leaving_lets_go_without_ending_sandboxes(runtime: ToldRuntime) -> None:
    async with Cubelet(runtime, lambda: [TEMPLATE], volumes=FakeVolumes()) as cubelet:
        await cubelet.create(spec())
    assert runtime.destroyed == []


class Drawer:
    """What envd keeps of a sandbox."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


async def keep_something(cubelet: Cubelet) -> Drawer:
    drawer = Drawer()
    (await cubelet.get("i1")).state["drawer"] = drawer
    return drawer


async def test_a_stopped_sandbox_is_started_again_with_nothing_of_its_old_processes(cubelet: Cubelet) -> None:
    died: list[str] = []
    cubelet.on_death(died.append)
    await cubelet.create(spec())
    drawer = await keep_something(cubelet)
    await cubelet.pause("i1", memory=False)
    assert drawer.closed
    with pytest.raises(SandboxNotRunning):
        await cubelet.stats("i1")
    with pytest.raises(SandboxNotRunning):
        await cubelet.get("i1")
    await cubelet.resume("i1")
    assert (await cubelet.get("i1")).state == {}
    assert cubelet.address("i1") == "192.0.2.1"
    assert died == []


async def test_a_paused_sandbox_keeps_what_envd_has_of_it(cubelet: Cubelet) -> None:
    await cubelet.create(spec())
    drawer = await keep_something(cubelet)
    await cubelet.pause("i1")
    await cubelet.resume("i1")
    assert not drawer.closed
    assert (await cubelet.get("i1")).state == {"drawer": drawer}


async def test_a_paused_sandbox_that_starts_anew_has_not_died(cubelet: Cubelet, runtime: ToldRuntime) -> None:
    died: list[str] = []
    cubelet.on_death(died.append)
    await cubelet.create(spec())
    drawer = await keep_something(cubelet)
    await cubelet.pause("i1")
    runtime.alive["i1"].death.set()  # its old processes end over it
    await cubelet.resume("i1", memory=False)
    await asyncio.sleep(0)
    assert (drawer.closed, died) == (True, [])
    assert (await cubelet.get("i1")).state == {}


async def test_a_failed_pause_leaves_it_running_and_watched(cubelet: Cubelet, runtime: ToldRuntime) -> None:
    died = asyncio.Event()
    cubelet.on_death(lambda _: died.set())
    await cubelet.create(spec())
    runtime.failures.append(HostError("no"))
    with pytest.raises(HostError):
        await cubelet.pause("i1", memory=False)
    assert (await cubelet.get("i1")).sandbox_id == "i1"
    runtime.alive["i1"].death.set()
    await died.wait()


async def test_a_rollback_starts_anew(cubelet: Cubelet) -> None:
    forgotten: list[str] = []
    cubelet.on_unreachable(forgotten.append)
    await cubelet.create(spec())
    drawer = await keep_something(cubelet)
    await cubelet.rollback("i1", "snap-1")
    assert drawer.closed
    assert forgotten == ["i1"]
    assert (await cubelet.get("i1")).state == {}


async def test_a_rollback_that_is_refused_changes_nothing(cubelet: Cubelet, runtime: ToldRuntime) -> None:
    await cubelet.create(spec())
    drawer = await keep_something(cubelet)
    runtime.failures.append(SnapshotNotFound("snap-1"))
    with pytest.raises(SnapshotNotFound):
        await cubelet.rollback("i1", "snap-1")
    assert (await cubelet.get("i1")).state == {"drawer": drawer}


@pytest.mark.parametrize("failures", [[SandboxStopped("no")], [None, HostError("no")]])
async def test_a_rollback_that_fails_half_way_leaves_a_stopped_sandbox(
    cubelet: Cubelet, runtime: ToldRuntime, failures: list[Exception | None]
) -> None:
    await cubelet.create(spec())
    drawer = await keep_something(cubelet)
    runtime.failures += failures
    with pytest.raises(SandboxStopped):
        await cubelet.rollback("i1", "snap-1")
    assert drawer.closed
    with pytest.raises(SandboxNotRunning, match="stopped"):
        await cubelet.get("i1")
    await cubelet.resume("i1")
    await cubelet.get("i1")


async def test_only_what_is_there_is_captured(cubelet: Cubelet, runtime: ToldRuntime) -> None:
    with pytest.raises(SandboxNotFound):
        await cubelet.snapshot("i1", "snap-1", memory=False)
    died = asyncio.Event()
    cubelet.on_death(lambda _: died.set())
    await cubelet.create(spec())
    await cubelet.pause("i1", memory=False)
    await cubelet.snapshot("i1", "snap-1", memory=False)
    await cubelet.resume("i1")
    await cubelet.snapshot("i1", "snap-2", memory=False)
    await cubelet.delete_snapshot("snap-1")
    runtime.alive["i1"].death.set()
    await died.wait()
    with pytest.raises(SandboxNotRunning):
        await cubelet.snapshot("i1", "snap-3", memory=False)
    assert runtime.captured == {"snap-2"}


class Kernels:
    """What the interpreter keeps for a sandbox."""

    def __init__(self) -> None:
        self.renewed = 0
        self.closed = False

    async def renew(self) -> None:
        self.renewed += 1

    async def close(self) -> None:
        self.closed = True


class Prepared:
    """Views that were prepared, in order; each gets a drawer the first time."""

    def __init__(self) -> None:
        self.views: list[EnvdSandbox] = []
        self.drawers: dict[str, Kernels] = {}

    async def __call__(self, view: EnvdSandbox) -> None:
        self.views.append(view)
        view.state["drawer"] = self.drawers.setdefault(view.sandbox_id, Kernels())


@pytest.fixture
def prepared() -> Prepared:
    return Prepared()


@pytest.fixture
async def stocked(runtime: ToldRuntime, prepared: Prepared) -> AsyncIterator[Cubelet]:
    """A cubelet with one sandbox in stock, which is prepared."""
    bounds = Bounds(1, 1, MemoryGauge(0))
    async with Cubelet(runtime, lambda: [TEMPLATE], volumes=FakeVolumes(), prepare=prepared, stock=bounds) as cubelet:
        await cubelet.recover([], set())
        async with asyncio.timeout(20):
            while not prepared.views:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await asyncio.sleep(0)
        yield cubelet


def plain_spec(sandbox_id: str, **variables: str) -> SandboxSpec:
    return SandboxSpec(sandbox_id, TEMPLATE, TEMPLATE.resources, variables, "token")


async def test_a_sandbox_in_stock_is_nobodys(stocked: Cubelet, runtime: ToldRuntime) -> None:
    (sandbox_id,) = runtime.alive
    with pytest.raises(SandboxNotFound):
        await stocked.get(sandbox_id)
    assert stocked.address(sandbox_id) is None
    assert list(stocked.running()) == []


async def test_the_sandbox_that_was_offered_is_handed_out(
    stocked: Cubelet, runtime: ToldRuntime, prepared: Prepared
) -> None:
    sandbox_id = stocked.offer(plain_spec("i-new"))
    assert sandbox_id == prepared.views[0].sandbox_id
    instance = runtime.alive[sandbox_id]
    await stocked.create(plain_spec(sandbox_id))
    view = await stocked.get(sandbox_id)
    assert runtime.alive[sandbox_id] is instance
    assert sandbox_id not in runtime.nobodys
    assert view is prepared.views[0]
    assert view.access_token == "token"
    assert prepared.drawers[sandbox_id].renewed == 0


async def test_variables_are_given_to_it_and_what_was_prepared_is_renewed(stocked: Cubelet, prepared: Prepared) -> None:
    sandbox_id = stocked.offer(plain_spec("i-new", B="request"))
    assert sandbox_id is not None
    await stocked.create(plain_spec(sandbox_id, B="request"))
    assert (await stocked.get(sandbox_id)).env_vars == {"A": "template", "B": "request"}
    assert prepared.drawers[sandbox_id].renewed == 1


async def test_what_cannot_be_handed_out_is_ended(stocked: Cubelet, runtime: ToldRuntime) -> None:
    """Its template was removed after it was started."""
    (sandbox_id,) = runtime.nobodys
    runtime.failures.append(TemplateNotFound(TEMPLATE.template_id))
    assert stocked.offer(plain_spec("i-new")) == sandbox_id
    with pytest.raises(TemplateNotFound):
        await stocked.create(plain_spec(sandbox_id))
    assert sandbox_id in runtime.destroyed
    assert sandbox_id not in {one.sandbox_id for one in stocked.running()}


async def test_an_offer_that_is_not_used_is_ended_with_all_that_was_prepared(
    stocked: Cubelet, runtime: ToldRuntime, prepared: Prepared
) -> None:
    sandbox_id = stocked.offer(plain_spec("i-new"))
    assert sandbox_id is not None
    await stocked.destroy(sandbox_id)
    assert runtime.destroyed == [sandbox_id]
    assert prepared.drawers[sandbox_id].closed


async def test_one_that_died_after_it_was_offered_is_started_anew(stocked: Cubelet, runtime: ToldRuntime) -> None:
    sandbox_id = stocked.offer(plain_spec("i-new"))
    assert sandbox_id is not None
    dead = runtime.alive[sandbox_id]
    dead.death.set()
    for _ in range(5):
        await asyncio.sleep(0)
    await stocked.create(plain_spec(sandbox_id))
    assert runtime.destroyed == [sandbox_id]
    assert runtime.alive[sandbox_id] is not dead
    assert (await stocked.get(sandbox_id)).sandbox_id == sandbox_id


async def test_leaving_ends_the_stock_and_nothing_else(runtime: ToldRuntime, prepared: Prepared) -> None:
    bounds = Bounds(1, 1, MemoryGauge(0))
    async with Cubelet(runtime, lambda: [TEMPLATE], volumes=FakeVolumes(), prepare=prepared, stock=bounds) as cubelet:
        await cubelet.create(spec())
        await cubelet.recover([], set())
        async with asyncio.timeout(20):
            while len(runtime.alive) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    assert set(runtime.destroyed) == runtime.alive.keys() - {"i1"}
