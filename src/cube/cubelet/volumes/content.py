"""What can be asked about the files of one volume, away from the event loop and in words for clients."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from cube.cubelet.runtime.container.uninterrupted import settled
from cube.cubelet.volumes.places import opened
from cube.cubelet.volumes.tree import VolumeTree
from cube.cubelet.volumes.upload import Upload
from cube.envd.files.blocking import file_error
from cube.envd.files.buffered import BufferedWriter
from cube.envd.files.descriptor import DescriptorFile
from cube.envd.files.transfers import Transfers
from cube.model.errors import CubeError, InvalidInput, NotFound, StorageFull, Unavailable, VolumeNotFound
from cube.model.volumes import Attributes, VolumeEntry

P = ParamSpec("P")
T = TypeVar("T")

#: Few: what happens in a volume must not take the machine from those who do something else.
_POOL = ThreadPoolExecutor(4, thread_name_prefix="volumes")
_UNUSABLE = {
    errno.EXDEV: "leads out of the volume",
    errno.ELOOP: "goes round in circles",
    errno.ENAMETOOLONG: "is too long",
}


class VolumeContent:
    """The files of one volume.

    Paths are absolute from the volume's root; symbolic links on the way are followed as long as they stay inside.
    Besides what each method names, all raise ``InvalidInput`` for a path that is none or leads out, ``NotFound``,
    ``PermissionDenied``, ``StorageFull`` and ``HostError``.
    """

    def __init__(self, volume_id: str, directory: Path, id_base: int) -> None:
        self._tree = VolumeTree(directory, id_base)
        self._transfers = Transfers(lambda: VolumeNotFound(volume_id))

    async def stat(self, path: str) -> VolumeEntry:
        """An entry; a symbolic link itself, not what it leads to."""
        return await _asked(path, self._tree.stat, path)

    async def entries(self, path: str, depth: int) -> list[VolumeEntry]:
        """What is in a directory, ``depth`` (1 to 10) levels deep, each directory before its own entries."""
        return await _asked(path, self._tree.entries, path, depth)

    async def make_dir(self, path: str, wish: Attributes, *, parents: bool) -> VolumeEntry:
        """Make a directory, and with ``parents`` those above it. Raises ``Conflict`` when there is something already,
        which with ``parents`` may be a directory."""
        return await _asked(path, self._tree.make_dir, path, wish, parents=parents)

    async def update(self, path: str, wish: Attributes) -> VolumeEntry:
        """Change owner or permissions."""
        return await _asked(path, self._tree.update, path, wish)

    async def remove(self, path: str) -> None:
        """Remove a file, or a directory with all that is in it."""
        await _asked(path, self._tree.remove, path)

    async def write(
        self, path: str, content: AsyncIterator[bytes], wish: Attributes, *, force: bool = False
    ) -> VolumeEntry:
        """Make a file, which appears when all its content is on the disk.

        With ``force`` it replaces a file, and missing directories are made; else raises ``Conflict`` when there is one.
        """
        async with self._transfers.running(), self._upload(path, wish, force=force) as upload:
            await _fill(upload.fd, content)
            return await _asked(path, upload.finish)

    @asynccontextmanager
    async def _upload(self, path: str, wish: Attributes, *, force: bool) -> AsyncIterator[Upload]:
        upload = Upload(self._tree, path, wish, force=force)
        try:
            await _asked(path, upload.begin)
            yield upload
        finally:
            await _asked(path, upload.close)

    @asynccontextmanager
    async def reading(self, path: str) -> AsyncIterator[tuple[int, VolumeEntry]]:
        """A file opened for reading, until the end of the block."""
        async with self._transfers.running():
            with ExitStack() as held:
                yield await _asked(path, self._open, path, held)

    def _open(self, path: str, held: ExitStack) -> tuple[int, VolumeEntry]:
        fd, entry = self._tree.open(path)
        return held.enter_context(opened(fd)), entry

    async def clear(self) -> None:
        """Remove what an earlier run of the service has left unfinished."""
        await _asked("/", self._tree.clear)

    async def close(self) -> None:
        """Break off what is being read and written, and let nothing begin any more."""
        await self._transfers.close()


async def _fill(fd: int, content: AsyncIterator[bytes]) -> None:
    writer = BufferedWriter(DescriptorFile(fd))
    try:
        async for piece in content:
            await writer.write(piece)
        await writer.finish()
    except StorageFull as error:
        raise _full() from error
    finally:
        await settled(asyncio.ensure_future(writer.idle()))


async def _asked(path: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` in a thread of the volumes; a cancelled caller learns of it when it has returned."""
    work = asyncio.get_running_loop().run_in_executor(_POOL, partial(function, *args, **kwargs))
    try:
        return await settled(work)
    except OSError as error:
        raise _refusal(error, path) from error


def _refusal(error: OSError, path: str) -> CubeError:
    shown = path[:200]
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return NotFound(f"path {shown} was not found")
        case errno.EXDEV | errno.ELOOP | errno.ENAMETOOLONG:
            return InvalidInput(f"path {shown} {_UNUSABLE[error.errno]}", field="path")
        case errno.EAGAIN:
            return Unavailable(f"path {shown} is reserved by a program in a sandbox")
        case errno.ENOSPC | errno.EDQUOT:
            return _full()
    return file_error(error)


def _full() -> StorageFull:
    return StorageFull("the volume is full: remove files from it")
