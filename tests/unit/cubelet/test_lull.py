from __future__ import annotations

import asyncio

from cube.cubelet.lull import Lull


async def finished(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(10):
        await task


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_pause_is_waited_for() -> None:
    lull = Lull(3600)
    lull.stir()
    task = asyncio.create_task(lull.wait(lambda: False))
    await settle()
    assert not task.done()
    task.cancel()


async def test_without_requests_the_pause_comes() -> None:
    await finished(asyncio.create_task(Lull(0.01).wait(lambda: False)))


async def test_what_is_urgent_does_not_wait() -> None:
    await finished(asyncio.create_task(Lull(3600).wait(lambda: True)))


async def test_what_becomes_urgent_while_it_waits_goes_on_with_the_request_that_made_it_so() -> None:
    lull, urgent = Lull(3600), False
    task = asyncio.create_task(lull.wait(lambda: urgent))
    await settle()
    lull.stir()
    await settle()
    assert not task.done()
    urgent = True
    lull.stir()
    await finished(task)


async def test_a_request_before_the_wait_is_not_missed() -> None:
    lull = Lull(0.01)
    lull.stir()
    await finished(asyncio.create_task(lull.stirred(None)))


async def test_patience_ends() -> None:
    await finished(asyncio.create_task(Lull(3600).stirred(0.01)))


async def test_whoever_works_in_a_pause_sees_that_it_has_ended() -> None:
    lull = Lull(0.01)
    await lull.wait(lambda: False)
    assert not lull.disturbed
    lull.stir()
    assert lull.disturbed
    await lull.stirred(None)
    assert not lull.disturbed
