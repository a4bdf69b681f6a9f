"""Directories in which templates are put together: private, and removed on every path."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from cube.master.templates.process import in_thread

_LOCK = "lock"


@contextlib.asynccontextmanager
async def workspace(directory: Path) -> AsyncIterator[Path]:
    """A new directory below ``directory`` for one build. Those of builds that were killed are cleared away first."""
    await in_thread(lambda _: remove_abandoned(directory))
    path = directory / f"build-{secrets.token_hex(8)}"
    path.mkdir(parents=True, mode=0o700)
    lock = _lock(path)
    try:
        yield path
    finally:
        await in_thread(lambda _: shutil.rmtree(path))
        os.close(lock)


def remove_abandoned(directory: Path) -> None:
    """Remove workspaces whose build does not hold its lock any more: the process died."""
    for path in directory.glob("build-*"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            lock = _lock(path)
            try:
                shutil.rmtree(path)
            finally:
                os.close(lock)


def _lock(path: Path) -> int:
    """Take the lock of a workspace; raises ``BlockingIOError`` while its build is under way."""
    fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    return fd
