"""The relay of a microVM as an ordinary process, before a process 1 that is one too: everything but the machine."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.cubelet.runtime.microvm.identity import Identity


@dataclass(slots=True)
class RelayGround:
    """A relay that listens at ``path``; it serves one connection after the other, as QEMU does."""

    path: Path
    relay: subprocess.Popen[bytes]
    serve: subprocess.Popen[bytes]

    async def connect(self, sandbox_id: str = "sbx") -> MicroVMGuest:
        """A guest that has its identity."""
        guest = await MicroVMGuest.connect(self.path, sandbox_id)
        await guest.identify(identity())
        return guest


def identity(generation: int = 1) -> Identity:
    """One that ``relay-test`` only confirms."""
    return Identity(generation, "sbx", "0" * 32, None, "", reset_connections=False)


@asynccontextmanager
async def relay_ground(cube_init: Path, directory: Path) -> AsyncIterator[RelayGround]:
    """Start both, and end them with all that they have started."""
    path = directory / "port"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(4)
    relays, ones = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with listener, relays, ones:
        serve = _start(cube_init, "serve-test", ones.fileno())
        relay = _start(cube_init, "relay-test", listener.fileno(), relays.fileno())
    try:
        yield RelayGround(path, relay, serve)
    finally:
        for process in (relay, serve):
            process.kill()
            process.wait()
        path.unlink()


def _start(cube_init: Path, face: str, *fds: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([cube_init, face, *map(str, fds)], pass_fds=fds, cwd="/", env=dict(os.environ))
