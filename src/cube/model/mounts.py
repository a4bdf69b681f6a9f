"""What of outside a sandbox is shown inside: directories of the host, and volumes."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from cube.model.errors import InvalidInput

#: Mounts of one sandbox: a launch message carries no more than 31 descriptors.
MOST = 16
#: Longest path that Linux takes, its end included.
_LONGEST = 4096
#: What a sandbox needs as it is.
_RESERVED = ("/proc", "/sys", "/dev", "/usr/bin/sudo", "/etc/resolv.conf", "/etc/hosts")


@dataclass(frozen=True, slots=True)
class HostMount:
    """A directory of the host, shown at ``mount_path``. Both paths are absolute and clean."""

    host_path: str
    mount_path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume, shown at ``mount_path``, which is absolute and clean. Its name is the one that it was asked for by."""

    volume_id: str
    name: str
    mount_path: str
    read_only: bool = False


def clean_path(path: str) -> str:
    """An absolute path without ``.``, ``..`` and doubled slashes. Raises ``ValueError`` with the reason."""
    if not path.startswith("/"):
        raise ValueError("must be an absolute path")
    if "\0" in path or len(path.encode(errors="surrogatepass")) >= _LONGEST:
        raise ValueError("is not a path")
    # POSIX leaves the meaning of two slashes at the beginning open, so normpath keeps them.
    return "/" + posixpath.normpath(path).lstrip("/")


def below(path: str, directory: str) -> bool:
    """Whether a clean path is a directory or lies in it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def check_targets(paths: Sequence[str], *, field: str) -> None:
    """Refuse clean paths in a sandbox that nothing may be mounted at, or at which two mounts would meet.

    Raises ``InvalidInput``.
    """
    if len(paths) > MOST:
        raise InvalidInput(f"a sandbox takes at most {MOST} mounts", field=field)
    for path in paths:
        if any(below(path, taken) or below(taken, path) for taken in _RESERVED):
            raise InvalidInput(f"nothing can be mounted at {path}: choose another path", field=field)
    ordered = sorted(paths)
    for number, path in enumerate(ordered):
        if any(below(other, path) for other in ordered[number + 1 :]):
            raise InvalidInput(f"mounts must not lie in each other: {path} has another one in it", field=field)
