"""Who may use ``sudo``, looked up in an image on the host without following anything that the image says."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

#: A passwd file of more than this is not one.
_MAX_BYTES = 1 << 20
#: Users that the launch plan can name.
_MAX_USERS = 256
#: Digits of ASCII only, and few enough for a number of the kernel.
_ID = re.compile(r"[0-9]{1,9}")


def user_ids(image: Path, names: Iterable[str]) -> tuple[int, ...]:
    """Ids of the named users in the image's /etc/passwd; those that it does not have are left out.

    A number stands for itself: builds make users that are not in the image.
    """
    wanted = set(names)
    if not wanted:
        return ()
    found = {int(name) for name in wanted if _ID.fullmatch(name)}
    for line in _passwd(image).splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[0] in wanted and _ID.fullmatch(fields[2]):
            found.add(int(fields[2]))
    return tuple(sorted(found))[:_MAX_USERS]


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
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return ""
        return os.pread(file, _MAX_BYTES, 0).decode(errors="replace")
    finally:
        os.close(file)
