"""Takes captures of machines that stand still."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.runtime.microvm import capture, layers, memory
from cube.cubelet.runtime.microvm.vmm import Vmm
from cube.cubelet.storage import sparse
from cube.cubelet.storage.subvolumes import storage_error
from cube.model.errors import HostError

#: Name of captured memory until the file that the machine began with is needed no more.
UNFINISHED_MEMORY: Final = "memory.new"


def find_base(pid: int, expected: tuple[int, int]) -> int:
    """Open the file that a machine's memory began with through the machine itself, for it may have no name any more;
    the caller closes it. ``expected`` are its device and inode number.

    The process may be hostile, so the file must be the one that it was started with. Raises ``HostError``.
    """
    directory = f"/proc/{pid}/fd"
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if _is(f"{directory}/{name}", expected):
                return os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    raise HostError(f"process {pid} has let go of the file that its memory began with")


def _is(path: str, expected: tuple[int, int]) -> bool:
    try:
        status = os.stat(path)
    except OSError:  # closed meanwhile
        return False
    return (status.st_dev, status.st_ino) == expected


class Still:
    """The memory of a machine that was stopped, about to be captured."""

    def __init__(self, vmm: Vmm, base: int, size: int) -> None:
        """``base`` is the open file that its memory began with, ``size`` the bytes of memory. Blocks."""
        self._vmm = vmm
        self._base = base
        self._address = memory.find(vmm.pid, size)
        self._runs = memory.own_runs(vmm.pid, self._address, size)

    @property
    def bytes_to_write(self) -> int:
        """How much a capture of it writes, at most."""
        return memory.bytes_of(self._runs)

    async def take(self, target: Path, *, name: str = capture.MEMORY) -> None:
        """Write memory and devices into a directory. Raises ``StorageFull``, ``HostError``; what was written stays."""
        with _writing(target / capture.DEVICES, 0o600) as devices:
            await self._vmm.save(devices)
        await in_thread(self._take_memory, target / name)

    def _take_memory(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        try:
            with layers.new_memory(path) as target:
                sparse.clone(self._base, target)
                memory.lay_over(self._vmm.pid, self._address, self._runs, target)
        except OSError as error:
            raise storage_error(error, "memory could not be captured") from error


@contextmanager
def _writing(path: Path, mode: int) -> Iterator[int]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    except OSError as error:
        raise storage_error(error, "devices could not be captured") from error
    try:
        yield handle
    finally:
        os.close(handle)
