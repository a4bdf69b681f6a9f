"""Work that tests give to a helper."""

from __future__ import annotations

import os
import time
from pathlib import Path


def where(text: str) -> tuple[tuple[int, str], list[int]]:
    return (os.getpid(), text), []


def pipe(content: bytes) -> tuple[None, list[int]]:
    read, write = os.pipe()
    os.write(write, content)
    return None, [read, write]


def refuse(error: Exception) -> tuple[None, list[int]]:
    raise error


def end_other_than(pid: int) -> tuple[int, list[int]]:
    """End the process, unless it is this one."""
    if os.getpid() != pid:
        os._exit(1)
    return os.getpid(), []


def hold(gate: str) -> tuple[int, list[int]]:
    """Whether anybody else was at it meanwhile."""
    file = Path(gate)
    others = file.exists()
    file.touch()
    time.sleep(0.02)
    file.unlink()
    return int(others), []


def large(size: int) -> tuple[bytes, list[int]]:
    return bytes(size), []
