"""System calls that the host side needs and Python lacks, one thin wrapper each, under the kernel's names.

Every wrapper raises ``OSError`` with the kernel's error number. Descriptors that come back are close-on-exec and belong
to the caller. ``os.pidfd_open`` and ``signal.pidfd_send_signal`` are in the standard library, so they are not here.
"""

from __future__ import annotations

import ctypes
import os
from enum import IntFlag
from typing import Any

# The same numbers on every architecture that Python and a sandbox host run on: they were given out after the kernel
# unified its tables (Documentation/process/adding-syscalls.rst).
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_MOUNT_SETATTR = 442

AT_FDCWD = -100
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000

_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6

MNT_DETACH = 2
_MS_PRIVATE = 1 << 18


class MountAttr(IntFlag):
    """Attributes of a mount (``MOUNT_ATTR_*`` of ``linux/mount.h``)."""

    NONE = 0
    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8
    NOATIME = 0x10
    NODIRATIME = 0x80
    IDMAP = 0x100000
    NOSYMFOLLOW = 0x200000


class _MountAttributes(ctypes.Structure):
    """``struct mount_attr``."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _check(result: int, subject: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)
    return result


def _call(number: int, *arguments: Any, subject: str | None = None) -> int:
    # Through variable arguments ctypes would pass a plain integer as a 32-bit int.
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _check(_syscall(ctypes.c_long(number), *wide), subject)


def open_tree(path: str, *, dir_fd: int = AT_FDCWD, recursive: bool = False) -> int:
    """A detached copy of the mount at ``path``, or of all mounts below it (``OPEN_TREE_CLONE``).

    An empty ``path`` means ``dir_fd`` itself. The copy is gone when its descriptor is closed before it was attached.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    flags |= AT_RECURSIVE if recursive else 0
    flags |= 0 if path else AT_EMPTY_PATH
    return _call(_NR_OPEN_TREE, dir_fd, os.fsencode(path), flags, subject=path)


def mount_setattr(
    mount: int, attributes: MountAttr, *, userns: int | None = None, recursive: bool = False, private: bool = False
) -> None:
    """Set attributes of an open mount, ``MountAttr.IDMAP`` with the user namespace whose map it takes.

    With ``private`` what is mounted in its original from now on does not show in it.

    A mount can be id-mapped only once and only while it is detached.
    """
    change = _MountAttributes(
        attr_set=int(attributes),
        propagation=_MS_PRIVATE if private else 0,
        userns_fd=userns if userns is not None else 0,
    )
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _call(_NR_MOUNT_SETATTR, mount, b"", flags, ctypes.byref(change), ctypes.sizeof(change))


def move_mount(mount: int, path: str, *, dir_fd: int = AT_FDCWD) -> None:
    """Attach a detached mount at ``path``."""
    _call(_NR_MOVE_MOUNT, mount, b"", dir_fd, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH, subject=path)


def fsopen(fstype: str) -> int:
    """A context in which a file system is configured."""
    return _call(_NR_FSOPEN, fstype.encode(), _FSOPEN_CLOEXEC, subject=fstype)


def fsconfig(context: int, key: str, value: str | None = None) -> None:
    """Set an option of the file system to come; without a value the option is a flag."""
    command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
    encoded = None if value is None else os.fsencode(value)
    _call(_NR_FSCONFIG, context, command, key.encode(), encoded, 0, subject=key)


def fsmount(context: int, attributes: MountAttr = MountAttr.NONE) -> int:
    """Create the configured file system; returns a detached mount of it."""
    _call(_NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
    return _call(_NR_FSMOUNT, context, _FSMOUNT_CLOEXEC, int(attributes))


def umount2(path: str, flags: int = 0) -> None:
    """Detach the mount at ``path``."""
    _check(_libc.umount2(os.fsencode(path), flags), path)
