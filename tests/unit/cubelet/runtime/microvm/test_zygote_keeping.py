"""When zygotes are made and ended, without machines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cube.cubelet.runtime.microvm import capture, zygotes
from cube.cubelet.runtime.microvm.templates import Source
from cube.cubelet.runtime.microvm.zygotes import Zygotes
from cube.model.errors import HostError
from cube.model.resources import Resources
from cube.model.sandbox import SandboxSpec
from cube.model.template import Template
from cube.settings import Settings


@dataclass(eq=False)
class FakeZygote:
    """A zygote without a process."""

    alive: bool = True
    used: float = 0.0
    ended: bool = False


@dataclass
class Ground:
    """Zygotes whose making and ending is noted."""

    directory: Path
    made: list[FakeZygote] = field(default_factory=list)
    making: Callable[[], Any] = FakeZygote
    accelerator: str = "tcg"

    def zygotes(self, most: int = 4) -> Zygotes:
        settings = Settings(state_dir=self.directory, vm_zygotes=most)
        nothing = cast(Any, None)
        starter = cast(Any, SimpleNamespace(accelerator=self.accelerator))
        tested = Zygotes(settings, nothing, nothing, starter, nothing)

        async def made(*_: object) -> FakeZygote:
            await asyncio.sleep(0)
            self.made.append(self.making())
            return self.made[-1]

        async def end(zygote: FakeZygote) -> None:
            zygote.ended = True

        tested._made = made  # type: ignore[method-assign, assignment]
        tested._end = end  # type: ignore[method-assign, assignment]
        return tested

    def source(self, name: str = "one") -> Source:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        (directory / capture.MANIFEST).touch()
        return Source(directory, cast(Any, None))


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    monkeypatch.setattr("cube.cubelet.memory.MemoryGauge.short", False)
    return Ground(tmp_path)


@pytest.fixture
def spec() -> SandboxSpec:
    template = Template("tpl-1", ("one",), Resources(), image_bytes=0, fingerprint="", created_at=datetime.now(UTC))
    return SandboxSpec("i1", template, template.resources)


async def test_one_is_made_for_all_who_ask(ground: Ground, spec: SandboxSpec) -> None:
    tested, source = ground.zygotes(), ground.source()
    found = await asyncio.gather(*(tested.get(source, spec) for _ in range(3)))
    assert found == ground.made * 3
    assert await tested.get(source, spec) is found[0]
    await tested.close()
    assert ground.made[0].ended


async def test_who_gives_up_waiting_does_not_end_the_work(ground: Ground, spec: SandboxSpec) -> None:
    tested, source = ground.zygotes(), ground.source()
    asking = asyncio.create_task(tested.get(source, spec))
    await asyncio.sleep(0)
    asking.cancel()
    assert await tested.get(source, spec) is ground.made[0]
    assert len(ground.made) == 1
    await tested.close()


async def test_one_that_has_ended_is_made_anew(ground: Ground, spec: SandboxSpec) -> None:
    tested, source = ground.zygotes(), ground.source()
    await tested.get(source, spec)
    ground.made[0].alive = False
    assert await tested.get(source, spec) is ground.made[1]
    await tested.close()


async def test_a_failure_is_not_repeated_at_once(
    ground: Ground, spec: SandboxSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested, source, tries = ground.zygotes(), ground.source(), []

    def fail() -> FakeZygote:
        tries.append(1)
        raise HostError("not today")

    ground.making = fail
    assert await tested.get(source, spec) is None
    assert await tested.get(source, spec) is None
    assert len(tries) == 1
    monkeypatch.setattr(zygotes, "_AGAIN", 0.0)
    ground.making = FakeZygote
    assert await tested.get(source, spec) is not None
    await tested.close()


async def test_the_one_that_was_used_longest_ago_makes_room(ground: Ground, spec: SandboxSpec) -> None:
    tested = ground.zygotes(most=2)
    for name in ("one", "two"):
        await tested.get(ground.source(name), spec)
    ground.made[0].used += 1
    await tested.get(ground.source("three"), spec)
    await asyncio.sleep(0)
    assert [one.ended for one in ground.made] == [False, True, False]
    await tested.close()


async def test_one_that_nobody_uses_ends(ground: Ground, spec: SandboxSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygotes, "_LOOK", 0.001)
    tested = ground.zygotes()
    await tested.get(ground.source(), spec)
    ground.made[0].used -= zygotes.KEPT + 1
    await _until(lambda: ground.made[0].ended)
    await tested.close()


async def test_it_ends_with_its_template(ground: Ground, spec: SandboxSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygotes, "_LOOK", 0.001)
    tested, source = ground.zygotes(), ground.source()
    await tested.get(source, spec)
    (source.directory / capture.MANIFEST).unlink()
    await _until(lambda: ground.made[0].ended)
    await tested.close()


async def test_they_end_when_memory_is_short(
    ground: Ground, spec: SandboxSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygotes, "_LOOK", 0.001)
    tested, source = ground.zygotes(), ground.source()
    await tested.get(source, spec)
    monkeypatch.setattr("cube.cubelet.memory.MemoryGauge.short", True)
    await _until(lambda: ground.made[0].ended)
    assert await tested.get(source, spec) is None
    await tested.close()


async def test_none_where_nothing_is_translated(ground: Ground, spec: SandboxSpec) -> None:
    ground.accelerator = "kvm"
    assert await ground.zygotes().get(ground.source(), spec) is None


async def test_none_when_they_are_switched_off(ground: Ground, spec: SandboxSpec) -> None:
    assert await ground.zygotes(most=0).get(ground.source(), spec) is None


async def test_none_for_other_resources_than_the_templates(ground: Ground, spec: SandboxSpec) -> None:
    other = replace(spec, resources=replace(spec.resources, cpu_count=spec.resources.cpu_count + 1))
    assert await ground.zygotes().get(ground.source(), other) is None


async def test_none_after_the_end(ground: Ground, spec: SandboxSpec) -> None:
    tested = ground.zygotes()
    await tested.close()
    assert await tested.get(ground.source(), spec) is None


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it has not happened")
