"""File I/O away from the event loop."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from cube.envd.guest import Buffer
from cube.model.errors import CubeError, HostError, InvalidInput, PermissionDenied, StorageFull

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Bytes per read or write: big enough that the hop to a thread does not matter.
CHUNK = 1024 * 1024
#: A pool of its own, so that a slow disk never holds up the other threads of the service.
_POOL = ThreadPoolExecutor(8, thread_name_prefix="envd-files")


def submit(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> asyncio.Future[_R]:
    """Run in a thread. The future may be awaited later; ``OSError`` comes as a ``CubeError``."""
    return asyncio.get_running_loop().run_in_executor(_POOL, lambda: _translated(function, *args, **kwargs))


def _translated(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    try:
        return function(*args, **kwargs)
    except OSError as error:
        raise file_error(error) from error


def file_error(error: OSError) -> CubeError:
    """What an error of the kernel on an open file means to the client."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return StorageFull("not enough disk space available: remove files, or use a template with a bigger disk")
        case errno.EFBIG | errno.EINVAL | errno.ENOTSUP | errno.E2BIG | errno.ERANGE:
            return InvalidInput(f"the file system refused it: {error.strerror}")
        case errno.EPERM | errno.EACCES | errno.EROFS:
            return PermissionDenied(f"the file system refused it: {error.strerror}")
    return HostError(f"the file could not be read or written: {error.strerror}")


def write_all(fd: int, data: Buffer) -> None:
    """Write everything. Blocks."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
