"""What this process has open, for tests that nothing stays open."""

from __future__ import annotations

import gc
import os
from contextlib import suppress


def open_fds() -> dict[str, str]:
    """This process's descriptors and what they are.

    What earlier tests left to the garbage collector is collected first, so that it does not vanish meanwhile.
    """
    gc.collect()
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found
