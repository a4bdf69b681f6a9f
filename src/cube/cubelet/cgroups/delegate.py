"""Switching controllers of the new interface on for our children, also inside a container.

A cgroup other than the root cannot hold processes and hand controllers to children at the same time (the "no internal
processes" rule of cgroups(7)). In a container, or in a delegated subtree, the topmost cgroup that we see is such a one
and we are in it: its processes then move into a leaf beside ours, and back when the instance is removed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cube.cubelet.cgroups.files import make_directory, read, write
from cube.model.errors import HostError

_log = logging.getLogger(__name__)

#: Rounds of moving before we give up on processes that fork faster than we move.
_ROUNDS: Final = 20


def enable(base: Path, controllers: Iterable[str], leaf: str) -> None:
    """Make controllers available in the children of ``base``. ``HostError`` says why it cannot be done.

    Processes that stand in the way are moved into the child ``leaf``.
    """
    wanted = sorted(set(controllers) - set(read(base / "cgroup.subtree_control").split()))
    if not wanted:
        return
    missing = set(wanted) - set(read(base / "cgroup.controllers").split())
    if missing:
        raise HostError(
            f"the controllers {', '.join(sorted(missing))} were not handed to {base}; "
            "run the service outside of the container or unit that keeps them, or have it delegate them"
        )
    try:
        _switch(base, "+", wanted)
    except OSError as error:
        if error.errno != errno.EBUSY or not _has_processes(base):
            raise HostError(f"cannot hand controllers to the children of {base}: {error.strerror}") from error
        _clear(base, base / leaf)
        _switch_or_fail(base, wanted)


def restore(base: Path, controllers: Iterable[str], leaf: str) -> None:
    """Undo what :func:`enable` did if it had to move processes; if not, others may rely on the controllers."""
    if not (base / leaf).is_dir():
        return
    try:
        _switch(base, "-", sorted(controllers))
        _move(base / leaf, base)
        os.rmdir(base / leaf)
    except OSError as error:
        _log.warning("processes stay in %s, something else needs it: %s", base / leaf, error)


def _clear(base: Path, leaf: Path) -> None:
    make_directory(leaf)
    for _ in range(_ROUNDS):
        _move(base, leaf)
        if not _has_processes(base):
            return
    raise HostError(f"processes keep appearing in {base}; stop what forks there and start again")


def _move(source: Path, target: Path) -> None:
    for pid in read(source / "cgroup.procs").split():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            write(target / "cgroup.procs", pid)


def _switch(base: Path, sign: str, controllers: list[str]) -> None:
    write(base / "cgroup.subtree_control", " ".join(sign + name for name in controllers))


def _switch_or_fail(base: Path, controllers: list[str]) -> None:
    try:
        _switch(base, "+", controllers)
    except OSError as error:
        raise HostError(f"cannot hand controllers to the children of {base}: {error.strerror}") from error


def _has_processes(base: Path) -> bool:
    return bool(read(base / "cgroup.procs").strip())
