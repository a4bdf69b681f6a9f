"""A sandbox with an ordinary user in it, seen through ``ContainerGuest``."""

from __future__ import annotations

import asyncio
import os
import select
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cube.cubelet.runtime.container import steps
from cube.cubelet.runtime.container.guest import ContainerGuest
from cube.cubelet.runtime.container.launcher import Launched, Launcher
from cube.cubelet.runtime.container.plan import Plan
from cube.cubelet.runtime.container.syscalls import MountAttr
from cube.envd.guest import ExitStatus, GuestProcess, SpawnRequest, TerminalSize
from support.launch_ground import ID_BASE, Ground, end, ground

USER = 1000
PASSWD = b"""root:x:0:0:root:/root:/bin/sh
user:x:1000:1000::/home/user:/bin/bash
other:x:1001:1001::/home/missing:/bin/sh
"""
GROUP = b"root:x:0:\nuser:x:1000:\nextra:x:2000:someone,user\nother:x:1001:\n"


@dataclass(slots=True)
class Inside:
    """A running sandbox."""

    guest: ContainerGuest
    launched: Launched
    place: Ground

    async def run(self, script: str, user: str = "user", **more: object) -> str:
        """Output of a shell script that succeeds."""
        status, output = await self.ended(
            await self.spawn("/bin/bash", "-c", f"exec 2>&1; {script}", user=user, **more)
        )
        assert status == ExitStatus(0), (status, output)
        return output.rstrip("\n")

    async def spawn(self, *argv: str, user: str = "user", **more: object) -> GuestProcess:
        return await self.guest.spawn(SpawnRequest(argv, user, **more))  # type: ignore[arg-type]

    async def ended(self, process: GuestProcess) -> tuple[ExitStatus, str]:
        """How it ended and what it wrote; closes its descriptors."""
        output = await asyncio.to_thread(read_to_end, process.stdout if process.terminal is None else process.terminal)
        status = await process.wait()
        release(process)
        return status, output

    async def write(self, path: str, content: bytes, user: str = "user", mode: int = 0o666) -> None:
        opened = await self.guest.open_write(path, user, mode=mode)
        await opened.file.write(content)
        opened.file.close()

    async def read(self, path: str, user: str = "user") -> bytes:
        opened = await self.guest.open_read(path, user)
        try:
            return await opened.file.read_at(1 << 20, 0)
        finally:
            opened.file.close()


def release(process: GuestProcess) -> None:
    """Close what belongs to a process."""
    for fd in (process.stdin, process.stdout, process.stderr, process.terminal):
        if fd is not None:
            os.close(fd)


def read_to_end(fd: int | None) -> str:
    """Everything until the writers are gone, from a pipe or a terminal."""
    assert fd is not None
    parts = []
    try:
        while part := os.read(fd, 65536):
            parts.append(part)
    except OSError:  # EIO: the terminal has no program any more
        pass
    return b"".join(parts).decode(errors="replace")


def read_until(fd: int | None, text: str) -> str:
    """What comes out of a pipe or terminal up to the chunk that completes this text."""
    assert fd is not None
    found = ""
    while text not in found:
        assert select.select([fd], [], [], 10)[0], f"{text!r} did not come after {found!r}"
        found += os.read(fd, 65536).decode(errors="replace")
    return found


@asynccontextmanager
async def inside(launcher: Launcher, directory: Path, cube_init: Path) -> AsyncIterator[Inside]:
    """Start a sandbox, and end it."""
    async with ground(launcher, directory) as place:
        owner = (("mode", "777"), ("uid", str(ID_BASE)), ("gid", str(ID_BASE)))
        place.extra += [
            steps.File("/etc/passwd", 0o644, ID_BASE, ID_BASE, PASSWD),
            steps.File("/etc/group", 0o644, ID_BASE, ID_BASE, GROUP),
            steps.Directory("/home", 0o755, ID_BASE, ID_BASE),
            steps.Directory("/home/user", 0o755, ID_BASE + USER, ID_BASE + USER),
            steps.Mount("tmpfs", "/other", MountAttr.NOSUID, owner),
            steps.MakeNode("/dev/tty", stat.S_IFCHR | 0o666, 5, 0, ID_BASE, ID_BASE),
            steps.SymbolicLink("pts/ptmx", "/dev/ptmx"),
            steps.Bind(str(cube_init), "/sbin-of-cube/sudo", MountAttr.RDONLY | MountAttr.NOSUID | MountAttr.NODEV),
        ]
        plan = place.plan()
        launched = await launcher.launch(Plan(plan.listening, (USER,), plan.steps))
        guest = ContainerGuest(launched.control.dup(), "sbx")
        try:
            yield Inside(guest, launched, place)
        finally:
            await guest.close()
            try:
                await end(launched)
            except ProcessLookupError:  # the test has ended it, and the launcher has noticed
                os.close(launched.pidfd)


TERMINAL = TerminalSize(100, 30)
