"""What /etc says of a sandbox, put into a layer that another sandbox, or an earlier life of this one, has written.

Everything in such a layer is hostile. It is written through descriptors, no link is followed, and what stands in the
way stays: a sandbox that has made /etc/hosts a directory has to live with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What a layer may answer because of what is in it, which is nobody's failure.
_IN_THE_WAY = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST, errno.EDQUOT, errno.ENOSPC})


def files(*, address: str, gateway: str, hostname: str, fresh: bool) -> dict[str, str]:
    """Content of the files of /etc by name; ``fresh`` for a sandbox that has not been before."""
    found = {
        "hosts": f"127.0.0.1 localhost\n{address} {hostname}\n",
        "hostname": f"{hostname}\n",
        "resolv.conf": f"nameserver {gateway}\n",
    }
    return found | {"machine-id": f"{os.urandom(16).hex()}\n"} if fresh else found


def write(upper: Path, owner: int, content: Mapping[str, str]) -> None:
    """Replace these files of /etc in the upper directory of a layer; they belong to ``owner`` there. Blocks.

    Raises ``OSError`` when the host fails, never because of what is in the layer.
    """
    with _opened(upper, None) as root, _forgiving(), _etc(root, owner) as etc:
        for name, text in content.items():
            with _forgiving():
                _replace(etc, name, text.encode(), owner)


@contextlib.contextmanager
def _etc(root: int, owner: int) -> Iterator[int]:
    """/etc, made when the layer has none; in the overlay it is then the image's, with these files over it."""
    with contextlib.suppress(FileExistsError):
        os.mkdir("etc", 0o755, dir_fd=root)
        os.chown("etc", owner, owner, dir_fd=root, follow_symlinks=False)
    with _opened("etc", root) as etc:
        yield etc


def _replace(directory: int, name: str, content: bytes, owner: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    file = os.open(name, _NEW_FILE, 0o644, dir_fd=directory)
    try:
        os.write(file, content)
        os.fchown(file, owner, owner)
    finally:
        os.close(file)


@contextlib.contextmanager
def _opened(path: str | Path, directory: int | None) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _forgiving() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
