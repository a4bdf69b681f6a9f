"""Reading and writing the small files of a cgroup, with errors that say what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from cube.model.errors import HostError

_READ_BYTES: Final = 65536

#: Text on the way of every create: putting a ``Path`` together takes longer than the system calls.
AnyPath = str | Path


def read(path: AnyPath) -> str:
    """Content of a control file. ``FileNotFoundError`` when the cgroup or the knob is not there."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(handle, _READ_BYTES):
            parts.append(part)
        return b"".join(parts).decode()
    finally:
        os.close(handle)


def write(path: AnyPath, value: str) -> None:
    """Write a control file in one call, as the kernel wants it. ``OSError`` as the kernel answers."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, value.encode())
    finally:
        os.close(handle)


def set_value(path: AnyPath, value: str) -> None:
    """Like :func:`write`, but a refusal is a ``HostError`` that names the file and the reason."""
    try:
        write(path, value)
    except OSError as error:
        raise HostError(f"the kernel refused {value!r} in {path}: {error.strerror}") from error


def make_directory(path: Path) -> bool:
    """Make a cgroup, unless it is there already; returns whether it was not.

    ``HostError`` tells a read-only mount from other reasons.
    """
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    except OSError as error:
        hint = ""
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            hint = "; in a container, give it a writable cgroup mount (for Docker: --privileged --cgroupns=private)"
        raise HostError(f"cannot make the control group {path}: {error.strerror}{hint}") from error
    return True


def keyed(text: str) -> dict[str, int]:
    """The numbers of a file with one `key value` per line, like cpu.stat."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def children(path: Path) -> set[str]:
    """Names of the cgroups directly below one; empty when it is not there."""
    try:
        with os.scandir(path) as entries:
            return {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    except FileNotFoundError:
        return set()
