"""Tools of an attacker; this file is copied into sandboxes and runs there, with nothing but the standard library."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = [
    "NUMBERS",
    "Path",
    "attempt",
    "call",
    "child",
    "ctypes",
    "errno",
    "json",
    "libc",
    "os",
    "outcome",
    "readable",
    "signal",
    "socket",
    "status",
    "struct",
    "sys",
    "tell",
]

#: System call numbers of this machine by name.
NUMBERS: dict[str, int] = json.loads(Path(__file__).with_name("numbers.json").read_text())
libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> int:
    """A system call, without the C library's own ideas about it; raises ``OSError``."""
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    ctypes.set_errno(0)
    libc.syscall.restype = ctypes.c_long
    result: int = libc.syscall(ctypes.c_long(NUMBERS[name]), *words)
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def outcome(work: Callable[..., Any], *arguments: Any) -> str:
    """``ok``, or the name of the error."""
    try:
        work(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"


def attempt(name: str, *arguments: Any) -> str:
    """Outcome of a system call."""
    return outcome(call, name, *arguments)


def child(work: Callable[..., Any], *arguments: Any) -> str:
    """Outcome of something in a process of its own: also the name of the signal that ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, outcome(work, *arguments).encode())
        os._exit(0)
    os.close(writer)
    _, code = os.waitpid(pid, 0)
    said = os.read(reader, 256).decode()
    os.close(reader)
    return signal.Signals(os.WTERMSIG(code)).name if os.WIFSIGNALED(code) else said


def readable(path: str) -> bool:
    """Whether anything comes out of a file."""
    try:
        with open(path, "rb", buffering=0) as file:
            return bool(file.read(1))
    except OSError:
        return False


def status(pid: int | str = "self") -> dict[str, str]:
    """``/proc/<pid>/status``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def tell(value: Any) -> None:
    """Say a result to the test outside."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
