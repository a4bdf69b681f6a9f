"""A place on this machine for one run of the tests, so that several runs and a live `cube up` do not meet."""

from __future__ import annotations

import fcntl
import os
import tempfile
from functools import cache
from pathlib import Path

#: Runs at the same time. Their networks are 10.214.0.0/16 to 10.229.0.0/16; a live service has 10.213.0.0/16.
SLOTS = 16
_LOCKS = Path(tempfile.gettempdir())


@cache
def slot() -> int:
    """A number that no other process has, for as long as this one lives. ``RuntimeError`` when all are taken."""
    for number in range(SLOTS):
        lock = os.open(_LOCKS / f"cube-tests-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return number
    raise RuntimeError(f"{SLOTS} other runs of the tests are under way on this machine")


def instance(part: int) -> str:
    """Name of an instance of this run; ``part`` is 0 to 15 and tells the run's services apart."""
    return f"t{slot():x}{part:x}"


def network(part: int) -> str:
    """Network of that instance, for 2,048 sandboxes."""
    return f"10.{214 + slot()}.{part * 16}.0/20"
