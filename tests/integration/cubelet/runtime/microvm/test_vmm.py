"""One QEMU process from its start to its end."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from cube.cubelet.runtime.microvm.qmp import CommandFailed
from cube.cubelet.runtime.microvm.vmm import Vmm, VmmEnded
from support.descriptors import open_fds
from support.launch_ground import childless, exists
from support.vm_yard import Yard


async def test_it_waits_for_a_state_and_does_not_run(yard: Yard) -> None:
    machine = await yard.start()
    assert await machine.execute("query-status") == {"status": "inmigrate", "singlestep": False, "running": False}


async def test_it_ends_when_killed_and_leaves_no_descriptor(yard: Yard) -> None:
    before = open_fds()
    machine = await yard.start()
    await machine.kill()
    assert machine.ended.is_set()
    assert not exists(machine.pid)
    await machine.kill()
    assert open_fds() == before


async def test_its_end_is_noticed(yard: Yard) -> None:
    machine = await yard.start()
    os.kill(machine.pid, signal.SIGKILL)
    await asyncio.wait_for(machine.ended.wait(), 10)
    with pytest.raises(VmmEnded):
        await machine.execute("query-status")


async def test_a_state_that_is_none_ends_it_with_a_reason(yard: Yard) -> None:
    machine = await yard.start()
    bad = yard.directory / "bad"
    bad.write_bytes(b"no state at all" * 1000)
    with bad.open("rb") as file, pytest.raises((VmmEnded, CommandFailed), match=r"(?i)migration|not a"):
        await machine.load(file.fileno())


async def test_an_empty_state_too(yard: Yard) -> None:
    machine = await yard.start()
    empty = yard.directory / "empty"
    empty.touch()
    with empty.open("rb") as file, pytest.raises((VmmEnded, CommandFailed)):
        await machine.load(file.fileno())


async def test_a_service_that_starts_again_speaks_to_it(yard: Yard) -> None:
    machine = await yard.start()
    machine.release()
    assert exists(machine.pid)
    again = Vmm.adopt(machine.pid, yard.doors())
    await again.ready()
    assert await again.execute("query-status") == {"status": "inmigrate", "singlestep": False, "running": False}
    await again.kill()
    assert not exists(machine.pid)


async def test_two_may_speak_to_it(yard: Yard) -> None:
    machine = await yard.start()
    with yard.doors().connect("second") as second:
        second.settimeout(10)
        assert b'"QMP"' in second.recv(4096)
        assert await machine.execute("query-name") == {}


async def test_a_refused_command_says_why_and_it_goes_on(yard: Yard) -> None:
    machine = await yard.start()
    with pytest.raises(CommandFailed, match="QEMU refused no-such-command"):
        await machine.execute("no-such-command")
    await machine.execute("query-status")


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 10, 30])
async def test_a_cancelled_start_leaves_nothing(yard: Yard, turns: int) -> None:
    before = open_fds()
    starting = asyncio.create_task(yard.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert yard.launcher.pid is not None
    assert await childless(yard.launcher.pid)
    assert open_fds() == before


async def test_many_at_once(yard: Yard) -> None:
    started = await asyncio.gather(*(yard.start(f"vm{number}") for number in range(8)))
    for machine in started:
        assert await machine.execute("query-name") == {}
