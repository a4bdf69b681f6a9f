"""``openat2``: paths that the kernel keeps inside a directory, whatever is done to it meanwhile."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

# <linux/openat2.h>
_SYS_OPENAT2 = 437
_NO_MAGICLINKS = 0x02
_NO_SYMLINKS = 0x04
_BENEATH = 0x08
#: The kernel gives up when a rename elsewhere on the machine raced with "..", and asks to try again.
_TRIES = 16

_libc = ctypes.CDLL(None, use_errno=True)


def open_beneath(directory: int, path: str, flags: int, mode: int = 0, *, follow: bool = False) -> int:
    """Open ``path``, relative to the descriptor ``directory``, without ever leaving it.

    With ``follow`` symbolic links are followed as long as they stay inside. Raises ``OSError``: ``EXDEV`` when the
    path leads out, ``ELOOP`` for a link that is not followed.
    """
    resolve = _BENEATH | (_NO_MAGICLINKS if follow else _NO_SYMLINKS)
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(_TRIES):
        fd = int(_libc.syscall(_SYS_OPENAT2, directory, os.fsencode(path or "."), how, ctypes.c_size_t(len(how))))
        if fd >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd
