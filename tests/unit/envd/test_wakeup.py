from __future__ import annotations

import asyncio

import pytest

from cube.envd.wakeup import Wakeup


async def test_set_before_the_wait_is_not_lost() -> None:
    wakeup = Wakeup()
    wakeup.set()
    assert await wakeup.wait(None)


async def test_set_during_the_wait_ends_it() -> None:
    wakeup = Wakeup()
    asyncio.get_running_loop().call_soon(wakeup.set)
    assert await wakeup.wait(30)


async def test_it_clears_itself() -> None:
    wakeup = Wakeup()
    wakeup.set()
    await wakeup.wait(None)
    assert not await wakeup.wait(0)


async def test_time_runs_out() -> None:
    assert not await Wakeup().wait(0.001)


async def test_a_negative_time_is_no_time() -> None:
    assert not await Wakeup().wait(-5)


async def test_it_survives_a_cancelled_wait() -> None:
    wakeup = Wakeup()
    task = asyncio.create_task(wakeup.wait(None))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wakeup.set()
    assert await wakeup.wait(None)
