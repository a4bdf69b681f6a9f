"""Waiting for a cgroup to reach a state, by the kernel's notification where there is one."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from pathlib import Path

from cube.cubelet.cgroups.files import keyed


async def wait_for_event(path: Path, key: str, wanted: int, seconds: float) -> bool:
    """Wait until ``key`` in a cgroup.events file has a value; ``False`` when that took too long.

    A cgroup that is gone has reached every state. The kernel raises POLLPRI on the file at each change after a read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if _has(handle, key, wanted):
            return True
        with select.epoll() as changes:
            changes.register(handle, select.EPOLLPRI)
            return await _wait_readable(changes.fileno(), lambda: _has(handle, key, wanted), seconds)
    finally:
        os.close(handle)


async def poll_until(reached: Callable[[], bool], seconds: float) -> bool:
    """Ask again and again, at growing distances of 0.2 to 10 ms, for what the kernel does not notify of."""
    deadline = asyncio.get_running_loop().time() + seconds
    pause = 0.0002
    while not reached():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.01)
    return True


async def _wait_readable(descriptor: int, reached: Callable[[], bool], seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    loop.add_reader(descriptor, changed.set)
    try:
        async with asyncio.timeout(seconds):
            while not reached():
                changed.clear()
                await changed.wait()
    except TimeoutError:
        return reached()
    finally:
        loop.remove_reader(descriptor)
    return True


def _has(handle: int, key: str, wanted: int) -> bool:
    try:
        return keyed(os.pread(handle, 4096, 0).decode()).get(key) == wanted
    except OSError:  # ENODEV: removed meanwhile
        return True
