"""A process that may outlive us: held by a descriptor, so that its number cannot come to mean another process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Identity:
    """Names one process for all time: its number, its start in clock ticks since boot, and the boot."""

    pid: int
    start_time: int
    boot_id: str


def identify(pid: int) -> Identity | None:
    """The identity of a live process; ``None`` when there is none. A zombie counts as dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] == b"Z":
        return None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Identity(pid, int(fields[19]), boot_id)


class Process:
    """A child of ours, or a process that an earlier run started. Close it to let go; that does not end it."""

    def __init__(self, identity: Identity, pidfd: int) -> None:
        self.identity = identity
        self._pidfd = pidfd

    @classmethod
    def spawn(cls, argv: Sequence[str], *, log: int, pass_fds: Sequence[int] = ()) -> Self:
        """Start a program with an empty environment, in a session of its own, output to ``log``. Blocks for the exec.

        Raises ``OSError`` when the program cannot be started.
        """
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={},
            start_new_session=True,
            pass_fds=pass_fds,
        )
        # From here on the descriptor reaps it; Popen must not try to.
        child.returncode = 0
        pidfd = os.pidfd_open(child.pid)
        identity = identify(child.pid)
        return cls(identity or Identity(child.pid, 0, ""), pidfd)

    @classmethod
    def adopt(cls, identity: Identity) -> Self | None:
        """Take hold of a process that runs already; ``None`` when it has ended."""
        try:
            pidfd = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return None
        if identify(identity.pid) == identity:
            return cls(identity, pidfd)
        os.close(pidfd)
        return None

    async def wait(self) -> None:
        """Return when it has ended; a child is reaped."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)
        self._reap()

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after ``grace`` seconds; returns when it has ended."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.wait(), grace)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self.wait()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Let go of the descriptor; may be called twice."""
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)
