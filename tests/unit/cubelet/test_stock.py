"""The decisions of the stock, over a maker that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from cube.cubelet.memory import MemoryGauge
from cube.cubelet.stock import Bounds, Maker, Stock, plain
from cube.model.errors import HostError
from cube.model.mounts import HostMount
from cube.model.sandbox import SandboxSpec
from cube.model.template import Template

CODE = Template(
    template_id="tpl-code",
    names=("code",),
    image="image.erofs",
    image_bytes=1,
    fingerprint="f",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    code_interpreter=True,
)
BASE = replace(CODE, template_id="tpl-base", names=("base",), code_interpreter=False)


class Gauge(MemoryGauge):
    def __init__(self) -> None:
        super().__init__(0)
        self.now_short = False

    @property
    def short(self) -> bool:
        return self.now_short


@dataclass
class Started:
    spec: SandboxSpec
    alive: bool = True
    prepared: bool = False
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


class Ground:
    """A stock, and everything that it made."""

    def __init__(self, low: int, high: int, *, prepares: bool = True, every_template: bool = False) -> None:
        self.memory = Gauge()
        self.templates = [BASE, CODE]
        self.made: list[Started] = []
        self.ended: list[Started] = []
        self.failures: list[Exception] = []
        self._prepares = prepares
        maker = Maker(self._start, self._prepare, self._end, lambda: self.templates)
        self.stock = Stock(Bounds(low, high, self.memory, every_template), maker)

    async def _start(self, spec: SandboxSpec) -> Started:
        if self.failures:
            raise self.failures.pop()
        self.made.append(Started(spec))
        return self.made[-1]

    async def _prepare(self, one: Started) -> None:
        if not self._prepares:
            await one.go_on.wait()
        one.prepared = True

    async def _end(self, one: Started) -> None:
        self.ended.append(one)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.stock.keep())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self.stock.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  any condition, not only those that have an event
                await asyncio.sleep(0.005)

    async def ready(self, count: int) -> None:
        await self.until(lambda: self.stock.ready("tpl-code") == count)


def wish(**changes: object) -> SandboxSpec:
    return replace(plain(CODE, "i-new"), envd_access_token="token", **changes)  # type: ignore[arg-type]


async def test_the_lowest_number_is_there_before_anybody_asks() -> None:
    ground = Ground(2, 8)
    async with ground.kept():
        await ground.ready(2)
        assert all(one.spec.template is CODE for one in ground.made)
        assert len({one.spec.sandbox_id for one in ground.made}) == 2


async def test_one_that_is_offered_can_be_taken_once_by_its_id_alone() -> None:
    ground = Ground(1, 8)
    async with ground.kept():
        await ground.ready(1)
        offered = ground.stock.offer(wish())
        assert offered == ground.made[0].spec.sandbox_id
        assert ground.stock.take("i-other") is None
        assert ground.stock.take(offered) is ground.made[0]
        assert ground.stock.take(offered) is None


async def test_what_is_offered_is_replaced_and_demand_adds_more() -> None:
    ground = Ground(1, 4)
    async with ground.kept():
        await ground.ready(1)
        for _ in range(3):
            ground.stock.offer(wish())
        await ground.ready(3)


async def test_a_template_that_gains_nothing_has_no_stock() -> None:
    ground = Ground(1, 8)
    async with ground.kept():
        await ground.ready(1)
        assert ground.stock.offer(plain(BASE, "i-new")) is None
        assert ground.stock.ready("tpl-base") == 0


async def test_where_every_start_takes_long_demand_alone_fills_the_stock_of_plain_templates() -> None:
    ground = Ground(1, 8, every_template=True)
    async with ground.kept():
        await ground.ready(1)
        assert ground.stock.offer(replace(plain(BASE, "i-new"), snapshot_id="snap-1")) is None
        assert ground.stock.ready("tpl-base") == 0
        assert ground.stock.offer(plain(BASE, "i-new")) is None
        await ground.until(lambda: ground.stock.ready("tpl-base") > 0)
        assert ground.stock.offer(plain(BASE, "i-new")) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"host_mounts": (HostMount("/srv", "/srv", read_only=True),)},
        {"snapshot_id": "snap-1"},
        {"resources": replace(CODE.resources, memory_mb=CODE.resources.memory_mb + 1)},
    ],
)
async def test_what_cannot_be_given_later_is_not_taken_from_stock(changes: dict[str, object]) -> None:
    ground = Ground(1, 8)
    async with ground.kept():
        await ground.ready(1)
        assert ground.stock.offer(wish(**changes)) is None


async def test_one_that_is_being_prepared_is_better_than_none_unless_variables_must_be_given() -> None:
    """Kernels that are being started have their variables already."""
    ground = Ground(1, 8, prepares=False)
    async with ground.kept():
        await ground.ready(1)
        assert ground.stock.offer(wish(env_vars={"A": "1"})) is None
        assert ground.stock.offer(wish()) == ground.made[0].spec.sandbox_id


async def test_a_prepared_one_takes_variables_and_is_preferred() -> None:
    ground = Ground(2, 8, prepares=False)
    async with ground.kept():
        await ground.ready(2)
        ground.made[1].go_on.set()
        await ground.until(lambda: ground.made[1].prepared)
        assert ground.stock.offer(wish(env_vars={"A": "1"})) == ground.made[1].spec.sandbox_id


async def test_a_dead_one_is_not_offered_and_is_cleared_away() -> None:
    ground = Ground(1, 8)
    async with ground.kept():
        await ground.ready(1)
        ground.made[0].alive = False
        assert ground.stock.offer(wish()) is None
        await ground.until(lambda: ground.made[0] in ground.ended)
        await ground.until(lambda: len(ground.made) > 1)


async def test_memory_that_is_short_empties_the_stock() -> None:
    ground = Ground(2, 8)
    async with ground.kept():
        await ground.ready(2)
        ground.memory.now_short = True
        ground.stock.offer(plain(BASE, "i-new"))
        ground.stock.offer(wish())
        await ground.until(lambda: len(ground.ended) == 1)
        assert ground.stock.ready("tpl-code") == 0


async def test_a_template_that_is_gone_loses_its_stock() -> None:
    ground = Ground(2, 8)
    async with ground.kept():
        await ground.ready(2)
        ground.templates = [BASE]
        ground.stock.offer(wish())
        await ground.until(lambda: len(ground.ended) == 1)


async def test_a_machine_that_refuses_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cube.cubelet.stock._LOOK_AGAIN_S", 0.01)
    ground = Ground(1, 8)
    ground.failures = [HostError("no"), HostError("no")]
    async with ground.kept():
        await ground.ready(1)


async def test_the_end_clears_everything_that_was_not_taken() -> None:
    ground = Ground(3, 8)
    async with ground.kept():
        await ground.ready(3)
        offered, taken = ground.stock.offer(wish()), ground.stock.offer(wish())
        assert offered is not None
        assert taken is not None
        kept = ground.stock.take(taken)
    assert kept not in ground.ended
    assert len(ground.ended) == len(ground.made) - 1
