from __future__ import annotations

import asyncio
from typing import cast

import pytest

from cube.envd.call import Call, Connection
from cube.envd.guest import Guest
from cube.envd.wakeup import Wakeup
from support.envd_server import make_sandbox


async def no_message() -> dict[str, object]:
    return {"type": "http.request"}


def call(*, left: float | None = None, keepalive: float = 60.0) -> Call:
    deadline = None if left is None else asyncio.get_running_loop().time() + left
    return Call(make_sandbox(cast(Guest, None)), "user", Connection(no_message), keepalive, deadline)


async def test_silence_asks_for_a_sign_of_life() -> None:
    assert not await call(keepalive=0.001).wait(Wakeup())
    assert not await call(keepalive=0.001, left=60).wait(Wakeup())


async def test_what_happened_comes_first() -> None:
    for waiting in (call(), call(left=60), call(left=0.001)):
        wakeup = Wakeup()
        wakeup.set()
        assert await waiting.wait(wakeup)


@pytest.mark.parametrize("left", [-1, 0, 0.001, 0.01])
async def test_the_time_limit_is_never_taken_for_silence(left: float) -> None:
    with pytest.raises(TimeoutError):
        await call(left=left).wait(Wakeup())


async def test_the_time_limit_counts_in_a_busy_stream_too() -> None:
    call(left=60).check_deadline()
    call().check_deadline()
    with pytest.raises(TimeoutError):
        call(left=-0.001).check_deadline()


async def test_a_client_that_leaves_is_noticed() -> None:
    async def disconnect() -> dict[str, object]:
        return {"type": "http.disconnect"}

    connection, told = Connection(disconnect), Wakeup()
    connection.on_gone = told.set
    await connection.receive()
    assert connection.gone
    assert await told.wait(0)
