"""Unix sockets by directory and name: the kernel takes paths of 107 bytes, and the run directory may be deeper."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_WAITING = 8
#: Bytes of a path that the kernel takes.
_LONGEST = 107


def listen(directory: Path | str, name: str, kind: socket.SocketKind) -> socket.socket:
    """A listening socket of its owner's alone, in the place of one that is there; the caller closes it."""
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        with _address(directory, name) as address:
            # Before the name exists, so that there is no moment with more rights.
            os.fchmod(listener.fileno(), 0o600)
            try:
                listener.bind(address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                os.unlink(address)
                listener.bind(address)
        listener.listen(_WAITING)
    except BaseException:
        listener.close()
        raise
    return listener


def connect(directory: Path | str, name: str, kind: socket.SocketKind) -> socket.socket:
    """A new connection; raises ``OSError`` when nobody listens. The caller closes it."""
    connection = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        with _address(directory, name) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _address(directory: Path | str, name: str) -> Iterator[str]:
    path = f"{directory}/{name}"
    if len(os.fsencode(path)) <= _LONGEST:
        yield path
        return
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{name}"
    finally:
        os.close(handle)
