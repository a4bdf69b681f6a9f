"""A process 1 that lies: the far end of a control connection, in the hands of a test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress

from cube.cubelet.runtime.container import datagrams
from cube.cubelet.runtime.container.datagrams import Datagram
from cube.cubelet.runtime.guest.wire import Kind, Writer
from support.descriptors import open_fds


class Liar:
    """Reads requests and answers them as it likes."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs.setblocking(False)

    async def request(self) -> Datagram:
        """The next request."""
        data = await self._readable()
        assert data is not None
        return data

    def answer(self, kind: int, request_id: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        datagrams.send(self._theirs, kind, request_id, body, fds)

    def raw(self, data: bytes) -> None:
        self._theirs.send(data)

    def close(self) -> None:
        self._theirs.close()

    def fill(self) -> None:
        """Leave no room for requests, by not reading them."""
        with suppress(BlockingIOError):
            while True:
                self.ours.send(b"x" * 1024)

    def read_raw(self) -> list[bytes]:
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(self._theirs.recv(65536))
        return found

    async def _readable(self) -> Datagram | None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._theirs, ready.set)
        try:
            async with asyncio.timeout(5):
                await ready.wait()
        finally:
            loop.remove_reader(self._theirs)
        return datagrams.receive(self._theirs)


def entry(path: str = "/x", **changes: object) -> Writer:
    """An entry as process 1 encodes it."""
    fields = {"type": 1, "mode": 0o100644, "link_mode": 0o100644, "size": 5, "mtime": -7, "uid": 1, "gid": 2} | changes
    writer = Writer().text(path)
    for name in ("type", "mode", "link_mode"):
        writer.u32(int(str(fields[name])))
    writer.u64(int(str(fields["size"]))).i64(int(str(fields["mtime"])))
    writer.u32(int(str(fields["uid"]))).u32(int(str(fields["gid"])))
    writer.text("owner").text("group").text("/target")
    return writer.u32(1).text("key").text("value")


def entries(more: int, paths: Sequence[str]) -> bytes:
    """Body of an ``ENTRIES``."""
    body = Writer().u32(more).u32(len(paths)).finish()
    return body + b"".join(entry(path).finish() for path in paths)


def failure(number: int, stage: int, detail: str = "") -> bytes:
    """Body of an ``ERROR``."""
    return Writer().i32(number).u32(stage).text(detail).finish()


def exited(pid: int, status: int) -> bytes:
    return Writer().u32(pid).i32(status).finish()


__all__ = ["Kind", "Liar", "entries", "entry", "exited", "failure", "open_fds"]
