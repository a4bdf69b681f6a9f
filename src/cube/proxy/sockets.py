"""The directory that a proxy shares with those it talks to, and who may open what in it. The inbound proxy's:

``run_dir/proxy``              0750 root:proxy   the proxy may look things up by name, others not at all
``run_dir/proxy/*.sock``       0660 root:proxy   api, envd, xds and lookup: root serves, the proxy connects
``run_dir/proxy/routes``       2750 root:proxy   the routing table: root writes, the proxy reads
``run_dir/proxy/admin``        0700 proxy:proxy  Envoy makes its own admin socket here, 0600; only root can use it too

``proxy`` is ``Settings.proxy_uid``, as user and as group id; neither needs an entry in /etc/passwd. The outbound
proxy has ``run_dir/egress`` and ``Settings.egress_uid``.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cube.model.errors import HostError

_BACKLOG = 4096


def prepare_directory(directory: Path, uid: int) -> None:
    """Make the shared directory, or correct its modes. Raises ``HostError`` when the proxy could not get to it."""
    directory.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    directory.parent.chmod(directory.parent.stat().st_mode | 0o011)
    _make(directory, 0o750, 0, uid)
    make_owned(directory / "admin", uid)
    blocked = closed_parent(directory, uid)
    if blocked is not None:
        raise HostError(f"user id {uid} cannot enter {blocked}: run `chmod o+x {blocked}` or choose another run_dir")


def make_readable(directory: Path, uid: int) -> None:
    """Make a directory in the shared one that root writes and the proxy reads, or correct its modes."""
    _make(directory, 0o2750, 0, uid)


def make_owned(directory: Path, uid: int) -> None:
    """Make a directory for a proxy alone, or correct its modes."""
    _make(directory, 0o700, uid, uid)


def _make(directory: Path, mode: int, uid: int, gid: int) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    os.chown(directory, uid, gid, follow_symlinks=False)
    directory.chmod(mode)


def closed_parent(path: Path, uid: int) -> Path | None:
    """The outermost directory on the way to ``path`` that a user with this user and group id may not enter."""
    for parent in reversed(path.resolve().parents):
        if not _enterable(parent.stat(), uid):
            return parent
    return None


def _enterable(status: os.stat_result, uid: int) -> bool:
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == uid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def share(path: Path, uid: int, mode: int = 0o660) -> None:
    """Let the proxy connect to a bound socket. The directory's mode kept others out until now."""
    os.chown(path, 0, uid)
    path.chmod(mode)


@contextmanager
def listening(path: Path, uid: int, mode: int = 0o660) -> Iterator[socket.socket]:
    """A non-blocking unix socket that the proxy may connect to; replaces one that an earlier run left."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        listener.bind(os.fspath(path))
        try:
            share(path, uid, mode)
            listener.listen(_BACKLOG)
            yield listener
        finally:
            path.unlink(missing_ok=True)


def remove_directory(directory: Path) -> None:
    """Remove what the proxy kept here, and the directory itself unless others still have sockets in it."""
    for part in ("routes", "admin"):
        shutil.rmtree(directory / part, ignore_errors=True)
    (directory / "envoy.log").unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()
