"""A kernel whose inside is played by the test, honestly and not."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator

import pytest

from cube.envd.interpreter import kernel as kernel_module
from cube.envd.interpreter.events import MAX_LINE, Failed, Started, Text
from cube.envd.interpreter.kernel import Cell, Kernel, KernelDied, Transport
from cube.model.errors import InvalidInput, Unavailable


class Inside:
    """The other ends of a kernel's pipes."""

    def __init__(self) -> None:
        self.requests, requests = os.pipe()
        events, self.events = os.pipe()
        self.killed: list[int | None] = []
        self.kernel = Kernel(Transport(requests, events, self._kill))

    async def _kill(self, pid: int | None) -> None:
        self.killed.append(pid)

    def say(self, *values: object) -> None:
        for value in values:
            os.write(self.events, json.dumps(value).encode() + b"\n")

    async def request(self) -> dict[str, object]:
        line = await asyncio.to_thread(os.read, self.requests, 1 << 20)
        value: dict[str, object] = json.loads(line)
        return value

    def end(self) -> None:
        os.close(self.events)
        self.events = -1

    async def close(self) -> None:
        await self.kernel.close()
        for descriptor in (self.requests, self.events):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    inside = Inside()
    yield inside
    await inside.close()


async def ready(inside: Inside) -> Kernel:
    inside.say({"type": "ready", "pid": 7})
    await inside.kernel.start()
    return inside.kernel


async def test_cell_from_start_to_end(inside: Inside) -> None:
    execution = await (await ready(inside)).execute(Cell("1+1", {"A": "b"}))
    request = await inside.request()
    assert (request["op"], request["code"], request["env"]) == ("execute", "1+1", {"A": "b"})
    number = request["id"]
    inside.say({"type": "started", "id": number, "count": 1}, {"type": "stdout", "text": "x"})
    assert await execution.next() == [Started(1, 1), Text("stdout", "x")]
    inside.say({"type": "error", "name": "E", "value": "", "traceback": ""}, {"type": "done", "id": number})
    assert await execution.next() == [Failed("E", "", "")]
    assert execution.finished


async def test_events_outside_the_cell_are_not_its_own(inside: Inside) -> None:
    kernel = await ready(inside)
    execution = await kernel.execute(Cell("1"))
    inside.say(
        {"type": "stdout", "text": "before"},
        {"type": "done", "id": 99},
        {"type": "started", "id": 1, "count": 1},
        {"type": "done", "id": 99},
        {"type": "stdout", "text": "mine"},
        {"type": "done", "id": 1},
        {"type": "stdout", "text": "after"},
    )
    assert await execution.next() == [Started(1, 1), Text("stdout", "mine")]
    second = await kernel.execute(Cell("2"))
    inside.say({"type": "started", "id": 2, "count": 2}, {"type": "done", "id": 2})
    assert await second.next() == [Started(2, 2)]


async def test_garbage_is_dropped(inside: Inside) -> None:
    execution = await (await ready(inside)).execute(Cell("1"))
    os.write(inside.events, b"\xff\n\n{}\nnull\n" + b"[" * 2000 + b"\n")
    inside.say({"type": "started", "id": 1, "count": 1}, {"type": "done", "id": 1})
    assert await execution.next() == [Started(1, 1)]


async def test_endless_line_ends_the_kernel(inside: Inside) -> None:
    execution = await (await ready(inside)).execute(Cell("1"))
    flood = asyncio.create_task(asyncio.to_thread(_flood, inside.events, MAX_LINE + (1 << 20)))
    with pytest.raises(KernelDied):
        await execution.next()
    assert not inside.kernel.alive
    await inside.kernel.close()
    await flood
    assert inside.killed == [7]


def _flood(descriptor: int, size: int) -> None:
    block = b"x" * 65536
    try:
        for _ in range(size // len(block)):
            os.write(descriptor, block)
    except BrokenPipeError:
        return


async def test_end_of_the_kernel_ends_the_cell(inside: Inside) -> None:
    execution = await (await ready(inside)).execute(Cell("1"))
    inside.end()
    with pytest.raises(KernelDied) as caught:
        await execution.next()
    assert caught.value.name == "UnexpectedEndOfExecution"
    with pytest.raises(KernelDied):
        await inside.kernel.execute(Cell("2"))


async def test_close_tells_the_cell_why(inside: Inside) -> None:
    execution = await (await ready(inside)).execute(Cell("1"))
    waiting = asyncio.create_task(execution.next())
    await asyncio.sleep(0)
    await inside.kernel.close(KernelDied("ContextRestarting", "restarted"))
    with pytest.raises(KernelDied) as caught:
        await waiting
    assert caught.value.name == "ContextRestarting"
    await inside.kernel.close()
    assert inside.killed == [7]


async def test_kernel_that_gives_a_reason_not_to_start(inside: Inside) -> None:
    inside.say({"type": "fatal", "message": "no IPython"})
    with pytest.raises(InvalidInput, match="no IPython"):
        await inside.kernel.start()


async def test_kernel_that_ends_while_it_starts(inside: Inside) -> None:
    inside.end()
    with pytest.raises(InvalidInput, match="ended while it started"):
        await inside.kernel.start()


async def test_kernel_that_never_is_ready(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "START_SECONDS", 0.05)
    with pytest.raises(Unavailable, match="not ready"):
        await inside.kernel.start()


async def test_kernel_that_takes_no_requests(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "SEND_SECONDS", 0.05)
    kernel = await ready(inside)
    with pytest.raises(KernelDied):
        await kernel.execute(Cell("x" * 1_000_000))


async def test_kernel_without_a_listener_is_held_back(inside: Inside) -> None:
    """While a cell runs, the pipe is read only as fast as somebody takes the events."""
    execution = await (await ready(inside)).execute(Cell("1"))
    inside.say({"type": "started", "id": 1, "count": 1})
    await execution.next()
    os.set_blocking(inside.events, False)
    line, written = json.dumps({"type": "stdout", "text": "x" * 1000}).encode() + b"\n", 0
    for _ in range(50):
        try:
            while True:
                written += os.write(inside.events, line)
        except BlockingIOError:
            await asyncio.sleep(0.001)
    assert written < 3 * 1024 * 1024
