"""Programs and threads of a build: what they print, how they fail, how they are cancelled."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from cube.master.templates.process import in_thread, run
from cube.model.errors import HostError


async def test_lines_of_both_streams_arrive() -> None:
    lines: list[str] = []
    await run(["sh", "-c", "echo one; echo two >&2; printf three"], on_line=lines.append)
    assert lines == ["one", "two", "three"]


async def test_a_line_without_end_is_cut() -> None:
    lines: list[str] = []
    await run(["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x; echo; echo last"], on_line=lines.append)
    assert sum(map(len, lines[:-1])) == 300_000
    assert max(map(len, lines)) <= 1 << 17
    assert lines[-1] == "last"


async def test_a_failure_tells_its_last_lines() -> None:
    with pytest.raises(HostError, match=r"sh failed with status 3: a \| b"):
        await run(["sh", "-c", "echo a; echo b; exit 3"])


async def test_a_missing_program() -> None:
    with pytest.raises(HostError, match="no-such-program is not installed"):
        await run(["no-such-program"])


async def test_a_child_that_outlives_the_program_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    await run(["sh", "-c", f"sleep 60 >/dev/null 2>&1 & echo $! > {pid}"])
    await gone(int(pid.read_text()))


async def test_cancelling_ends_the_program() -> None:
    started = asyncio.Event()
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        started.set()

    task = asyncio.create_task(run(["sh", "-c", "trap '' TERM INT; echo $$; sleep 60"], on_line=on_line))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(pids[0])


async def gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, over.set)
    try:
        await asyncio.wait_for(over.wait(), 5)
    finally:
        loop.remove_reader(fd)
        os.close(fd)


async def test_a_thread_gives_its_value_or_error() -> None:
    assert await in_thread(lambda stop: stop.is_set()) is False
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda stop: 1 // 0)


async def test_cancelling_waits_for_the_thread_even_when_repeated() -> None:
    loop = asyncio.get_running_loop()
    stopping, running, returned = asyncio.Event(), asyncio.Event(), []
    proceed = threading.Event()

    def work(stop: threading.Event) -> None:
        loop.call_soon_threadsafe(running.set)
        stop.wait(10)
        loop.call_soon_threadsafe(stopping.set)
        proceed.wait(10)
        returned.append(True)

    task = asyncio.create_task(in_thread(work))
    await running.wait()
    task.cancel()
    await stopping.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    proceed.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert returned == [True]
