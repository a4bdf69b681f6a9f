"""Waiting for the first process of a sandbox: for its report, and for its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from functools import partial

import structlog

from cube.cubelet.runtime.container import datagrams
from cube.cubelet.runtime.container.channel import ANSWER_SECONDS, refused
from cube.cubelet.runtime.container.plan import describe
from cube.cubelet.runtime.container.steps import Step
from cube.cubelet.runtime.guest.wire import Kind, WireError
from cube.model.errors import HostError

log = structlog.get_logger(__name__)

#: Seconds within which a killed process is gone; a frozen or unresponsive disk can hold it up.
END_SECONDS = 5.0


class ProcessGone(HostError):
    """The first process of a sandbox has ended before it served, without a word: it was killed, as all that wait are
    when the launcher ends. Another one can be tried."""


async def expect(control: socket.socket, kind: Kind | None, steps: Sequence[Step]) -> None:
    """Wait for a process to report this, ``None``: to close the socket.

    Raises ``ProcessGone``, and ``HostError`` or ``StorageFull`` for anything else.
    """
    if not await readable(control.fileno(), ANSWER_SECONDS):
        raise HostError(f"the first process of the sandbox was not ready within {ANSWER_SECONDS:g} seconds")
    try:
        message = datagrams.receive(control)
        if message is None:
            if kind is None:
                return
            raise ProcessGone("the first process of the sandbox ended before it was ready")
        if message.kind != kind:
            raise refused(message, partial(describe, steps), steps)
        message.take_fds(0)
    except ConnectionResetError:
        raise ProcessGone("the first process of the sandbox ended before it was ready") from None
    except (OSError, WireError) as error:
        raise HostError(f"the first process of the sandbox cannot be understood: {error}") from error


async def readable(fd: int, seconds: float) -> bool:
    """Wait until a descriptor can be read; ``False`` when that takes longer."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(seconds):
            await ready.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True


async def end(pidfd: int) -> None:
    """Kill a process, wait until it is gone, and close its descriptor."""
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not await readable(pidfd, END_SECONDS):
            log.error("a killed process does not end", seconds=END_SECONDS)
    finally:
        os.close(pidfd)
