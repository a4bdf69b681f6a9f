"""Processes held by descriptor: ended, adopted, never confused."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cube.proxy.process import Process, identify

IGNORES_TERM = ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do read -r line </dev/zero; done"]


@pytest.fixture
def sleeper() -> Iterator[Process]:
    process = start(["/bin/sleep", "60"])
    yield process
    if identify(process.identity.pid) == process.identity:
        os.kill(process.identity.pid, signal.SIGKILL)
    process.close()


def start(argv: list[str]) -> Process:
    fd = os.open("/dev/null", os.O_WRONLY)
    try:
        return Process.spawn(argv, log=fd)
    finally:
        os.close(fd)


async def test_wait_reaps_the_child() -> None:
    process = start(["/bin/true"])
    await process.wait()
    process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.identity.pid, 0)


async def test_stop_ends_it(sleeper: Process) -> None:
    await sleeper.stop(grace=5)
    assert identify(sleeper.identity.pid) is None


async def test_stop_kills_what_does_not_listen() -> None:
    reader, writer = os.pipe()
    process = Process.spawn(IGNORES_TERM, log=writer)
    os.close(writer)
    assert os.read(reader, 100) == b"ready\n"
    os.close(reader)
    await process.stop(grace=0.05)
    process.close()
    assert identify(process.identity.pid) is None


async def test_adopted_process_can_be_awaited_and_stopped(sleeper: Process) -> None:
    adopted = Process.adopt(sleeper.identity)
    assert adopted is not None
    waiting = asyncio.create_task(adopted.wait())
    await sleeper.stop(grace=5)
    await waiting
    adopted.close()


def test_another_process_with_the_same_number_is_not_adopted(sleeper: Process) -> None:
    assert Process.adopt(replace(sleeper.identity, start_time=sleeper.identity.start_time + 1)) is None
    assert Process.adopt(replace(sleeper.identity, boot_id="another boot")) is None


async def test_ended_process_is_not_adopted(sleeper: Process) -> None:
    await sleeper.stop(grace=5)
    assert Process.adopt(sleeper.identity) is None


def test_child_has_no_environment_and_a_session_of_its_own(sleeper: Process) -> None:
    pid = sleeper.identity.pid
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    assert os.getsid(pid) == pid


def test_missing_program_raises() -> None:
    with pytest.raises(FileNotFoundError):
        start(["/no/such/program"])
