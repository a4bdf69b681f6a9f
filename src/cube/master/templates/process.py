"""Programs and threads that a build waits for, and that end when the build is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from cube.model.errors import HostError

T = TypeVar("T")

#: Prefix for programs that start others or mount: when it dies, the kernel kills everything in its process namespace,
#: and its mounts are gone with the mount namespace.
ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
#: Longest line and number of last lines that are kept for an error message.
_LINE_BYTES = 1 << 16
_TAIL_LINES = 15


async def run(
    argv: Sequence[str],
    *,
    on_line: Callable[[str], None] = lambda line: None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a program to its end; ``on_line`` gets what it prints. Cancelling kills it and its process group.

    Raises ``HostError`` with its last lines when it fails, or when it is not installed.
    """
    process = await _start_whole(_start(argv, {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}, cwd))
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        async for line in _lines(process):
            tail.append(line)
            on_line(line)
        code = await process.wait()
    finally:
        await _end(process)
    if code != 0:
        raise HostError(f"{_program(argv)} failed with status {code}: " + " | ".join(tail))


async def _start_whole(start: Coroutine[None, None, asyncio.subprocess.Process]) -> asyncio.subprocess.Process:
    """Cancelled in the middle of a start, asyncio kills the program alone and not what it has started by then."""
    starting = asyncio.ensure_future(start)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _through_cancellation(starting)
        if starting.exception() is None:
            await _end(starting.result())
        raise


async def _start(argv: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
            cwd=cwd,
            limit=_LINE_BYTES,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise HostError(f"{argv[0]} is not installed on this machine") from error


async def _lines(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    assert process.stdout is not None  # noqa: S101  asked for with PIPE
    while line := await _line(process.stdout):
        yield line.decode(errors="replace").rstrip()


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line, cut where it is too long."""
    try:
        return await stream.readuntil()
    except asyncio.IncompleteReadError as end:
        return end.partial
    except asyncio.LimitOverrunError as overrun:
        return await stream.read(overrun.consumed or _LINE_BYTES)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the process group, and wait for the program itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        await _through_cancellation(asyncio.ensure_future(process.wait()))


def _program(argv: Sequence[str]) -> str:
    return argv[len(ISOLATED)] if tuple(argv[: len(ISOLATED)]) == ISOLATED else argv[0]


async def in_thread(work: Callable[[threading.Event], T]) -> T:
    """Run ``work`` in a thread. Cancelling sets its event and waits until it has returned, so that nothing touches
    the files of a build after the build has ended."""
    stop = threading.Event()
    future = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        await _through_cancellation(future)
        raise


async def _through_cancellation(future: asyncio.Future[T]) -> None:
    """Wait until ``future`` is done, whatever it gives and however often this task is cancelled meanwhile."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
