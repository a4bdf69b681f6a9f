"""A program that the node itself runs in a sandbox: no client sees it, and its output goes to whoever asked for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from cube.envd.guest import ExitStatus, Guest, GuestProcess, SpawnRequest
from cube.envd.process.managed import AFTERMATH, SILENCE
from cube.envd.process.pump import Pump
from cube.envd.wakeup import Wakeup

Sink = Callable[[bytes], None]


def nowhere(_: bytes) -> None:
    """Takes output that nobody wants."""


async def run(guest: Guest, request: SpawnRequest, stdout: Sink = nowhere, stderr: Sink = nowhere) -> ExitStatus:
    """Run a program to its end; the sinks get its output as it comes.

    When it leaves children behind that hold its pipes, those are read until they are silent. Cancelling lets go of the
    program without ending it. Raises like :meth:`Guest.spawn`, and ``Unavailable`` when the sandbox dies.
    """
    process = await guest.spawn(request)
    stirred = Wakeup()
    pumps = [
        _pump(fd, sink, stirred) for fd, sink in ((process.stdout, stdout), (process.stderr, stderr)) if fd is not None
    ]
    try:
        status = await process.wait()
        await _silence(pumps, stirred)
        return status
    finally:
        for pump in pumps:
            pump.close()
        _close_input(process)


def _pump(fd: int, sink: Sink, stirred: Wakeup) -> Pump:
    def take(data: bytes) -> float:
        sink(data)
        stirred.set()
        return 0

    return Pump(fd, take, stirred.set)


async def _silence(pumps: list[Pump], stirred: Wakeup) -> None:
    loop = asyncio.get_running_loop()
    limit = loop.time() + AFTERMATH
    while not all(pump.ended for pump in pumps) and loop.time() < limit:
        if not await stirred.wait(SILENCE):
            return


def _close_input(process: GuestProcess) -> None:
    if process.stdin is not None:
        os.close(process.stdin)
