"""An open file of a sandbox whose descriptor the host has."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping

from cube.envd.files.blocking import submit
from cube.envd.files.ways import FileSink
from cube.envd.guest import Buffer, GuestFile


class DescriptorFile(GuestFile):
    """Implements ``GuestFile`` over the descriptor ``fd``, which it owns."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._sink = FileSink(fd)

    def read_at(self, size: int, offset: int) -> asyncio.Future[bytes]:
        return submit(os.pread, self.fd, size, offset)

    def write(self, data: Buffer) -> asyncio.Future[None]:
        return submit(self._sink.write, data)

    def set_attributes(self, changes: Mapping[str, str | None]) -> asyncio.Future[None]:
        return submit(_set_attributes, self.fd, changes)

    def identity(self) -> asyncio.Future[tuple[int, int]]:
        status = os.fstat(self.fd)  # never blocks
        known: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        known.set_result((status.st_dev, status.st_ino))
        return known

    def finish(self) -> asyncio.Future[None]:
        # btrfs may begin to write to the disk when a file is closed that was emptied before.
        return submit(self.close)

    def close(self) -> None:
        os.close(self.fd)


def _set_attributes(fd: int, changes: Mapping[str, str | None]) -> None:
    for name, value in changes.items():
        if value is None:
            with contextlib.suppress(OSError):  # ENODATA: somebody else was faster
                os.removexattr(fd, name)
        else:
            os.setxattr(fd, name, value.encode())
