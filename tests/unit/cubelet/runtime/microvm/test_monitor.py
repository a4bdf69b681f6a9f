"""The conversation with QEMU on the event loop, with the test at QEMU's end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from cube.cubelet.runtime.microvm.monitor import Monitor, MonitorClosed
from cube.cubelet.runtime.microvm.qmp import CommandFailed, Event
from cube.model.errors import HostError


class Qemu:
    """QEMU's end of the socket."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._buffer = b""

    async def say(self, message: dict[str, Any]) -> None:
        await asyncio.get_running_loop().sock_sendall(self.end, json.dumps(message).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self._buffer += await asyncio.get_running_loop().sock_recv(self.end, 4096)
        first, _, self._buffer = self._buffer.partition(b"\n")
        return dict(json.loads(first))

    async def greet(self) -> None:
        await self.say({"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}}})
        await self.say({"return": {}, "id": (await self.hear())["id"]})


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    yield ours, theirs
    theirs.close()


@pytest.fixture
async def qemu(ends: tuple[socket.socket, socket.socket]) -> Qemu:
    return Qemu(ends[1])


@pytest.fixture
async def monitor(ends: tuple[socket.socket, socket.socket], qemu: Qemu) -> AsyncIterator[Monitor]:
    made = Monitor(ends[0])
    await qemu.greet()
    assert await made.ready() == "7.2.0"
    yield made
    made.close()


async def test_commands_are_answered_out_of_order(monitor: Monitor, qemu: Qemu) -> None:
    first = asyncio.create_task(monitor.execute("a"))
    second = asyncio.create_task(monitor.execute("b", {"x": 1}))
    asked = [await qemu.hear(), await qemu.hear()]
    assert [(each["execute"], each["arguments"]) for each in asked] == [("a", {}), ("b", {"x": 1})]
    await qemu.say({"return": 2, "id": asked[1]["id"]})
    await qemu.say({"return": 1, "id": asked[0]["id"]})
    assert (await first, await second) == (1, 2)


async def test_a_refusal_is_an_error_that_names_the_command(monitor: Monitor, qemu: Qemu) -> None:
    asked = asyncio.create_task(monitor.execute("migrate"))
    await qemu.say({"error": {"desc": "no way"}, "id": (await qemu.hear())["id"]})
    with pytest.raises(CommandFailed, match="QEMU refused migrate: no way"):
        await asked


async def test_a_descriptor_travels_with_its_command(monitor: Monitor, qemu: Qemu) -> None:
    reader, writer = os.pipe()
    asked = asyncio.create_task(monitor.execute("getfd", {"fdname": "x"}, fd=writer))
    await asyncio.sleep(0)
    data, fds, _, _ = socket.recv_fds(qemu.end, 4096, 4)
    assert json.loads(data)["execute"] == "getfd"
    os.write(fds[0], b"hi")
    assert os.read(reader, 2) == b"hi"
    await qemu.say({"return": {}, "id": json.loads(data)["id"]})
    await asked
    for fd in (reader, writer, *fds):
        os.close(fd)


async def test_events_reach_who_listens(monitor: Monitor, qemu: Qemu) -> None:
    found: asyncio.Queue[Event] = asyncio.Queue()
    with monitor.listening(found.put_nowait):
        await qemu.say({"event": "STOP"})
        assert await found.get() == Event("STOP", {})
    await qemu.say({"event": "RESUME"})
    asked = asyncio.create_task(monitor.execute("a"))
    await qemu.say({"return": {}, "id": (await qemu.hear())["id"]})
    await asked
    assert found.empty()


async def test_the_end_of_qemu_reaches_all_who_wait(monitor: Monitor, qemu: Qemu) -> None:
    asked = [asyncio.create_task(monitor.execute("a")) for _ in range(3)]
    await qemu.hear()
    qemu.end.close()
    for result in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(result, MonitorClosed)
    await monitor.closed.wait()
    with pytest.raises(MonitorClosed):
        await monitor.execute("b")


async def test_one_that_breaks_the_rules_is_dropped(monitor: Monitor, qemu: Qemu) -> None:
    asked = asyncio.create_task(monitor.execute("a"))
    await qemu.hear()
    await qemu.say({"return": {}, "id": 12345})
    with pytest.raises(MonitorClosed, match="not asked"):
        await asked


async def test_silence_has_an_end(monitor: Monitor, qemu: Qemu) -> None:
    with pytest.raises(HostError, match=r"did not answer slow within 0\.05 seconds"):
        await monitor.execute("slow", seconds=0.05)
    # The late answer harms nobody.
    await qemu.say({"return": {}, "id": (await qemu.hear())["id"]})
    asked = asyncio.create_task(monitor.execute("next"))
    await qemu.say({"return": 5, "id": (await qemu.hear())["id"]})
    assert await asked == 5


async def test_a_cancelled_command_leaves_the_conversation_whole(monitor: Monitor, qemu: Qemu) -> None:
    asked = asyncio.create_task(monitor.execute("a"))
    number = (await qemu.hear())["id"]
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await qemu.say({"return": 1, "id": number})
    again = asyncio.create_task(monitor.execute("b"))
    await qemu.say({"return": 2, "id": (await qemu.hear())["id"]})
    assert await again == 2


async def test_commands_wait_while_qemu_does_not_read(monitor: Monitor, qemu: Qemu) -> None:
    asked = [asyncio.create_task(monitor.execute("a", {"x": "y" * 60_000})) for _ in range(20)]
    for _ in asked:
        message = await qemu.hear()
        assert len(message["arguments"]["x"]) == 60_000
        await qemu.say({"return": {}, "id": message["id"]})
    await asyncio.gather(*asked)
