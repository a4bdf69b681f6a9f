"""Knobs below /proc/sys of many network namespaces.

The names of a knob's directories are the same in all namespaces, and a procfs keeps those that it was asked for in one
chain: through /proc, the price of a write grows with the namespaces that there are (0.1 ms for each hundred, three
knobs, Linux 6.18). An instance of procfs that is given up after a few namespaces has a short chain.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from cube.netagent.namespaces import write_sysctl

#: Namespaces until another instance is made, which takes as long as the writes of two or three namespaces.
_RENEWAL: Final = 32

# <linux/mount.h>; the numbers of these calls are the same on all architectures that Python knows of.
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_CMD_CREATE: Final = 6
_libc = ctypes.CDLL(None, use_errno=True)


class Sysctls:
    """Writes for the network namespace that the calling thread is in. Not safe for several threads at a time."""

    def __init__(self) -> None:
        self._root = _procfs()
        self._left = _RENEWAL

    def close(self) -> None:
        """Let go of the instance of procfs."""
        os.close(self._root)

    def prepare(self) -> None:
        """Say that knobs of a namespace that is new here will be written."""
        if self._left == 0:
            fresh = _procfs()
            self.close()
            self._root, self._left = fresh, _RENEWAL
        self._left -= 1

    def write(self, path: str, value: str) -> None:
        """Set ``/proc/sys/<path>``; ``FileNotFoundError`` when there is no such knob."""
        write_sysctl(path, value, proc=self._root)

    def close_ipv6(self, scope: str) -> None:
        """Switch IPv6 off for an interface, or for ``all`` that there are and will be in the namespace; nothing to do
        where the kernel was built without it."""
        try:
            self.write(f"net/ipv6/conf/{scope}/disable_ipv6", "1")
        except FileNotFoundError:
            if os.access("sys/net/ipv6", os.F_OK, dir_fd=self._root):
                raise


def _procfs() -> int:
    """The root of a new instance of procfs, which nobody else sees; of the usual one where none may be made."""
    try:
        return _mounted_procfs()
    except OSError:
        return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _mounted_procfs() -> int:
    context = _call(_FSOPEN, b"proc", _FSOPEN_CLOEXEC)
    try:
        _call(_FSCONFIG, context, _CMD_CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _call(number: int, *arguments: bytes | int | None) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
