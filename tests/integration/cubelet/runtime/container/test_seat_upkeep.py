"""Seats on a machine that refuses something: the pool goes on."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cube.cubelet.cgroups.events import poll_until
from cube.cubelet.cgroups.group import Cgroup
from cube.cubelet.runtime.container import seat_files
from cube.cubelet.runtime.container.first_process import ProcessGone
from cube.cubelet.runtime.container.launcher import Launched
from cube.cubelet.runtime.container.plan import Plan
from cube.cubelet.runtime.container.seats import SeatPool
from cube.model.errors import HostError, StorageFull
from support.container_node import ContainerNode, container_node, sh

pytestmark = pytest.mark.root
#: See :class:`support.service.Service`; another file of this folder, which never runs at the same time, has it too.
_PART = 6


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ContainerNode]:
    async with container_node(tmp_path, _PART) as running:
        yield running


async def test_a_layer_that_cannot_be_removed_stops_neither_the_pool_nor_the_next_start(node: ContainerNode) -> None:
    volume = node.runtime._volume
    spec = node.spec()
    left = (await node.runtime.create(spec)).layer
    refused = asyncio.Event()
    loop = asyncio.get_running_loop()

    def refuse(name: str) -> None:
        if name == left:
            loop.call_soon_threadsafe(refused.set)
            raise HostError("not today")
        type(volume).remove(volume, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volume, "remove", refuse)
        await node.runtime.destroy(spec.sandbox_id)
        await asyncio.wait_for(refused.wait(), 60)
    for _ in range(3):
        other = node.spec()
        assert await sh(await node.runtime.create(other), "echo on") == "on"
        await node.runtime.destroy(other.sandbox_id)
    assert left in volume.names()
    await node.restart()
    assert left not in node.runtime._volume.names()


async def test_what_a_former_seat_has_left_is_not_what_the_next_one_gets(node: ContainerNode) -> None:
    seat = await node.runtime._seats.acquire()
    (node.runtime._volume.existing(seat.layer_name).upper / "left").write_text("x")
    with ExitStack() as borrowed:
        await asyncio.to_thread(node.runtime._seats._lay_out, seat, borrowed)
    assert not (node.runtime._volume.existing(seat.layer_name).upper / "left").exists()
    node.runtime._seats.leave(seat)


async def test_a_seat_that_finds_no_room_for_its_files_is_refused_in_words(node: ContainerNode) -> None:
    seat = await node.runtime._seats.acquire()

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seat_files, "write_place", no_room)
        with pytest.raises(StorageFull, match="could not be made"), ExitStack() as borrowed:
            await asyncio.to_thread(node.runtime._seats._lay_out, seat, borrowed)
    node.runtime._seats.leave(seat)
    assert await sh(await node.runtime.create(node.spec()), "echo on") == "on"


@pytest.mark.parametrize("step", ["layer", "cgroup", "userns", "park"])
@pytest.mark.parametrize("cancelled", [False, True], ids=["refused", "cancelled"])
async def test_a_seat_that_is_not_finished_leaves_nothing(node: ContainerNode, step: str, *, cancelled: bool) -> None:
    seats = node.runtime._seats
    assert seats._keeper is not None
    seats._keeper.cancel()  # it would make seats of its own meanwhile
    await asyncio.wait([seats._keeper])
    there = _places(node)
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def refuse_in_thread(*_: object) -> None:
        loop.call_soon_threadsafe(reached.set)
        if not cancelled:
            raise HostError("not today")
        time.sleep(0.05)  # the work of a thread goes on

    async def refuse(*_: object) -> None:
        reached.set()
        if not cancelled:
            raise HostError("not today")
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        match step:
            case "layer":
                patch.setattr(seat_files, "write_place", refuse_in_thread)
            case "cgroup":
                patch.setattr(Cgroup, "limit", refuse_in_thread)
            case "userns" | "park":
                patch.setattr(seats._launcher, step, refuse)
        making = asyncio.create_task(seats._make())
        await asyncio.wait_for(reached.wait(), 60)
        if cancelled:
            making.cancel()
        with pytest.raises(asyncio.CancelledError if cancelled else HostError):
            await making
        assert _places(node) == there
    assert await sh(await node.runtime.create(node.spec()), "echo on") == "on"


async def test_the_pool_is_filled_while_nobody_asks_for_anything(tmp_path: Path) -> None:
    async with container_node(tmp_path, _PART, most_seats=4) as node:
        seats = node.runtime._seats
        assert await poll_until(lambda: seats.ready == 4, 30)
        taken = [await seats.acquire() for _ in range(3)]
        assert await poll_until(lambda: seats.ready == 4, 30)
        for seat in taken:
            seats.leave(seat)
        assert await poll_until(lambda: not seats._left and node.runtime._links._held.keys() == _indices(seats), 30)


async def test_a_pool_that_is_not_full_lets_requests_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on only after a pause, and a seat that was begun is all that a request meets."""
    async with container_node(tmp_path, _PART, most_seats=6) as node:
        seats = node.runtime._seats
        assert await poll_until(lambda: seats.ready == 6, 30)
        monkeypatch.setattr(seats._lull, "_seconds", 3600)  # a pause that does not come
        taken = [await seats.acquire() for _ in range(5)]
        await asyncio.sleep(0.2)
        assert seats.ready == 1
        taken.append(await seats.acquire())  # now one is missing that must be there
        assert await poll_until(lambda: seats.ready >= 1, 30)
        for seat in taken:
            seats.leave(seat)


async def test_seats_are_given_up_at_once_when_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with container_node(tmp_path, _PART, most_seats=4) as node:
        seats = node.runtime._seats
        assert await poll_until(lambda: seats.ready == 4, 30)
        monkeypatch.setattr(seats._lull, "_seconds", 3600)  # a pause that does not come
        monkeypatch.setattr("cube.cubelet.memory.MemoryGauge.short", True)
        taken = await seats.acquire()
        assert await poll_until(lambda: seats.ready == 0, 30)
        seats.leave(taken)
        assert await poll_until(lambda: not node.runtime._links._held, 30)
        assert await sh(await node.runtime.create(node.spec()), "echo on") == "on"


def _indices(seats: SeatPool) -> set[int]:
    return {seat.index for seat in seats._ready}


def _places(node: ContainerNode) -> tuple[set[str], set[str], int]:
    """The layers, the cgroups and the number of links that are somebody's."""
    return set(node.runtime._volume.names()), node.runtime._cgroups.names(), len(node.runtime._links._held)


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_parked_process_that_is_killed_just_then_costs_another_seat(
    node: ContainerNode, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the launcher is killed between the choice of a seat and the start in it."""
    plain, left = node.runtime._launcher.resume, [times]

    async def killed_first(parked: Launched, plan: Plan) -> Launched:
        if left[0]:
            left[0] -= 1
            os.kill(parked.pid, signal.SIGKILL)
            assert select.select([parked.pidfd], [], [], 20)[0]
        return await plain(parked, plan)

    monkeypatch.setattr(node.runtime._launcher, "resume", killed_first)
    if times == 3:
        with pytest.raises(ProcessGone):
            await node.runtime.create(node.spec())
    else:
        assert await sh(await node.runtime.create(node.spec()), "echo on") == "on"
