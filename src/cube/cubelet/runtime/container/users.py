"""Who may use ``sudo``, looked up in an image on the host without following anything that the image says."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

#: A passwd file of more than this is not one.
_MAX_BYTES = 1 << 20


def user_ids(image: Path, names: Iterable[str]) -> tuple[int, ...]:
    """Ids of the named users in the image's /etc/passwd; those that it does not have are left out."""
    wanted = set(names)
    if not wanted:
        return ()
    found = []
    for line in _passwd(image).splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[0] in wanted and fields[2].isdecimal():
            found.append(int(fields[2]))
    return tuple(found)


def _passwd(image: Path) -> str:
    """Descriptor by descriptor: a symbolic link in an image could lead anywhere on the host."""
    try:
        directory = os.open(image / "etc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        file = os.open("passwd", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return ""
    finally:
        os.close(directory)
    with os.fdopen(file, "rb") as content:
        return content.read(_MAX_BYTES).decode(errors="replace")
