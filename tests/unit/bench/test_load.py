from __future__ import annotations

import asyncio

from cube.bench.load import RoundFailed, run


async def test_counts_rounds_and_throws_warm_up_away() -> None:
    calls = 0

    async def once() -> dict[str, float]:
        nonlocal calls
        calls += 1
        return {"create": float(calls)}

    samples = await run(once, count=5, concurrency=1, warmup=2)
    assert calls == 7
    assert samples.durations == {"create": [3.0, 4.0, 5.0, 6.0, 7.0]}
    assert samples.rounds == 5
    assert samples.elapsed > 0


async def test_keeps_to_the_concurrency() -> None:
    alive = highest = 0
    full = asyncio.Event()

    async def once() -> dict[str, float]:
        nonlocal alive, highest
        alive += 1
        highest = max(highest, alive)
        if alive == 3:
            full.set()
        await full.wait()
        alive -= 1
        return {"x": 0.0}

    samples = await run(once, count=9, concurrency=3, warmup=0)
    assert highest == 3
    assert samples.rounds == 9


async def test_a_failed_round_is_counted_and_does_not_end_the_run() -> None:
    rounds = iter(range(4))

    async def once() -> dict[str, float]:
        if next(rounds) == 1:
            raise RoundFailed("refused")
        return {"x": 1.0}

    samples = await run(once, count=4, concurrency=1, warmup=0)
    assert samples.errors == ["refused"]
    assert samples.rounds == 3


async def test_progress_is_told_of_every_round() -> None:
    told = []

    async def once() -> dict[str, float]:
        return {"x": 1.0}

    await run(once, count=3, concurrency=2, warmup=1, progress=lambda: told.append(1))
    assert len(told) == 4
