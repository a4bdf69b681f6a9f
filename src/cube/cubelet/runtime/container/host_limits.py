"""Limits that the kernel has for the machine as a whole, raised until they are none for sandboxes.

Small machines have 32,768 process numbers, and files and terminals for themselves alone; a few sandboxes at their own
limits would use them up for everybody. What each of them costs is memory, which is counted against the sandbox. Nothing
is ever lowered, and nothing is set back: others may rely on it by then. systemd does the same to the first two.
"""

from __future__ import annotations

from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

#: Path below /proc/sys and the least value: the most that the kernel takes (Documentation/admin-guide/sysctl).
MACHINE_WIDE = {
    "kernel/pid_max": 1 << 22,
    "fs/file-max": (1 << 63) - 1,
    "kernel/threads-max": 1 << 22,
    "kernel/pty/max": 1 << 20,
}


def raise_limits(root: Path = Path("/proc/sys")) -> None:
    """Raise what is lower. What cannot be raised, as in a container, is logged: the machine works, with less room."""
    for name, least in MACHINE_WIDE.items():
        knob = root / name
        try:
            if int(knob.read_text()) < least:
                knob.write_text(str(least))
        except OSError as error:
            log.warning("limit.not_raised", limit=name, wanted=least, reason=error.strerror)
