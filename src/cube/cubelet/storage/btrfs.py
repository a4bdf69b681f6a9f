"""btrfs by its ioctls (<linux/btrfs.h>), each wrapper named as the kernel names the call.

``fd`` is a descriptor of a directory on the file system. Python's ``fcntl.ioctl`` copies at most 1,024 bytes of an
immutable argument, so the arguments here are ``bytearray``. All raise ``OSError`` with the kernel's reason.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_IOC_WRITE, _IOC_READ = 1, 2


def _ioc(direction: int, number: int, size: int) -> int:
    """An ioctl request number of btrfs (<asm-generic/ioctl.h>; the magic byte is 0x94)."""
    return direction << 30 | size << 16 | 0x94 << 8 | number


_VOL_ARGS_BYTES = 4096
_NAME_BYTES = 4087
_FS_INFO_BYTES = 1024

RESIZE = _ioc(_IOC_WRITE, 3, _VOL_ARGS_BYTES)
SUBVOL_CREATE = _ioc(_IOC_WRITE, 14, _VOL_ARGS_BYTES)
SNAP_DESTROY = _ioc(_IOC_WRITE, 15, _VOL_ARGS_BYTES)
INO_LOOKUP = _ioc(_IOC_READ | _IOC_WRITE, 18, 4096)
SNAP_CREATE_V2 = _ioc(_IOC_WRITE, 23, _VOL_ARGS_BYTES)
FS_INFO = _ioc(_IOC_READ, 31, _FS_INFO_BYTES)
QUOTA_CTL = _ioc(_IOC_READ | _IOC_WRITE, 40, 16)
QGROUP_CREATE = _ioc(_IOC_WRITE, 42, 16)
QGROUP_LIMIT = _ioc(_IOC_READ, 43, 48)

#: Commands of :func:`quota_ctl`. Simple quotas (Linux 6.7) charge an extent to the subvolume that wrote it and never
#: walk backreferences, which ordinary quotas do at every commit.
QUOTA_CTL_ENABLE = 1
QUOTA_CTL_ENABLE_SIMPLE_QUOTA = 4

_SUBVOL_RDONLY = 1 << 1
_QGROUP_LIMIT_MAX_RFER = 1 << 0
#: Lowest id of a subvolume, and inode number of the root directory of every one of them.
FIRST_SUBVOLUME = 256


def subvol_create(fd: int, name: str) -> None:
    """Create the empty subvolume ``name`` in the directory."""
    fcntl.ioctl(fd, SUBVOL_CREATE, _vol_args(0, name))


def snap_create(fd: int, name: str, source: int, *, read_only: bool) -> None:
    """Create ``name`` in the directory as a snapshot of the subvolume whose root is the descriptor ``source``."""
    arguments = bytearray(_VOL_ARGS_BYTES)
    struct.pack_into("=qQQ", arguments, 0, source, 0, _SUBVOL_RDONLY if read_only else 0)
    arguments[56 : 56 + len(_name(name))] = _name(name)
    fcntl.ioctl(fd, SNAP_CREATE_V2, arguments)


def snap_destroy(fd: int, name: str) -> None:
    """Remove the subvolume or snapshot ``name``; the kernel frees its blocks in the background."""
    fcntl.ioctl(fd, SNAP_DESTROY, _vol_args(0, name))


def subvolume_id(fd: int) -> int:
    """Id of the subvolume that the descriptor lies in; its quota group is ``0/<id>``."""
    arguments = bytearray(4096)
    struct.pack_into("=QQ", arguments, 0, 0, FIRST_SUBVOLUME)
    fcntl.ioctl(fd, INO_LOOKUP, arguments)
    return int(struct.unpack_from("=Q", arguments)[0])


def quota_ctl(fd: int, command: int) -> None:
    """Switch quotas on; ``EINVAL`` where the kernel does not know the command."""
    fcntl.ioctl(fd, QUOTA_CTL, bytearray(struct.pack("=QQ", command, 0)))


def enable_quotas(mount_point: Path) -> str:
    """Switch on the best quotas that the kernel has, unless some are on; returns ``simple`` or ``ordinary``."""
    with directory(mount_point) as fd:
        try:
            quota_ctl(fd, QUOTA_CTL_ENABLE_SIMPLE_QUOTA)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            quota_ctl(fd, QUOTA_CTL_ENABLE)
        return _quota_kind(qgroups_directory(fd))


def _quota_kind(qgroups: Path) -> str:
    """What is in effect; kernels that know ordinary quotas alone have no ``mode`` to read."""
    try:
        return "simple" if (qgroups / "mode").read_text().strip() == "squota" else "ordinary"
    except FileNotFoundError:
        return "ordinary"


def qgroups_directory(fd: int) -> Path:
    """Directory of the live counters of all quota groups, one ``<level>_<id>`` each."""
    return Path("/sys/fs/btrfs", fs_uuid(fd), "qgroups")


def qgroup_limit(fd: int, max_referenced: int, qgroup: int = 0) -> None:
    """Limit a quota group (0: of the subvolume that ``fd`` lies in) to so many bytes; more gives ``EDQUOT``."""
    fcntl.ioctl(
        fd, QGROUP_LIMIT, bytearray(struct.pack("=QQQQQQ", qgroup, _QGROUP_LIMIT_MAX_RFER, max_referenced, 0, 0, 0))
    )


def qgroup_destroy(fd: int, qgroup: int) -> None:
    """Remove the quota group of a subvolume that is gone; ``EBUSY`` while the kernel still frees its blocks."""
    fcntl.ioctl(fd, QGROUP_CREATE, bytearray(struct.pack("=QQ", 0, qgroup)))


def resize_to_device(fd: int) -> None:
    """Grow the file system to the size of its device."""
    fcntl.ioctl(fd, RESIZE, _vol_args(0, "max"))


def fs_uuid(fd: int) -> str:
    """UUID of the file system, as its directory in /sys/fs/btrfs is called."""
    arguments = bytearray(_FS_INFO_BYTES)
    fcntl.ioctl(fd, FS_INFO, arguments)
    digits = arguments[16:32].hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@contextlib.contextmanager
def directory(path: Path) -> Iterator[int]:
    """A descriptor of a directory, for the calls above; a symbolic link is refused."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _vol_args(fd: int, name: str) -> bytearray:
    arguments = bytearray(_VOL_ARGS_BYTES)
    struct.pack_into("=q", arguments, 0, fd)
    encoded = _name(name)
    arguments[8 : 8 + len(encoded)] = encoded
    return arguments


def _name(name: str) -> bytes:
    encoded = name.encode()
    if not encoded or len(encoded) > _NAME_BYTES or b"/" in encoded or b"\0" in encoded:
        raise ValueError(f"not a subvolume name: {name!r}")
    return encoded
