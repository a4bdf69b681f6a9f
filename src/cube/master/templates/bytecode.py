"""Compiled Python in an image whose files all carry one time stamp.

A ``.pyc`` file names the modification time of its source (PEP 552); Python would compile every module again at every
start if that did not fit.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

#: Magic number, flags (0: valid by time and size), source time, source size.
_HEADER = struct.Struct("<4sIII")


def retime(root: Path, epoch: int) -> int:
    """Let all valid ``.pyc`` files below ``root`` expect sources of the time ``epoch``; returns how many."""
    return sum(_retime(directory, name, epoch) for directory, name in _compiled(root))


def _compiled(root: Path) -> Iterator[tuple[int, str]]:
    for _, _, names, directory in os.fwalk(root):
        yield from ((directory, name) for name in names if name.endswith(".pyc"))


def _retime(directory: int, name: str, epoch: int) -> bool:
    try:
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:  # a link or a device: not something that Python's compiler made
        return False
    with open(fd, "r+b", buffering=0) as file:
        header = file.read(_HEADER.size) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        source = _source(directory, name)
        if len(header) < _HEADER.size or source is None:
            return False
        magic, flags, time, size = _HEADER.unpack(header)
        if flags != 0 or (time, size) != (int(source.st_mtime) & 0xFFFFFFFF, source.st_size & 0xFFFFFFFF):
            return False
        file.seek(0)
        file.write(_HEADER.pack(magic, flags, epoch, size))
    return True


def _source(directory: int, name: str) -> os.stat_result | None:
    """The source beside ``__pycache__/module.tag.pyc``."""
    try:
        return os.stat(f"../{name.split('.')[0]}.py", dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
