"""Loop devices: a file as a block device (<linux/loop.h>)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from cube.model.errors import HostError

LOOP_SET_CAPACITY = 0x4C07
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82

LO_FLAGS_READ_ONLY = 1
#: The kernel detaches the device by itself when its last user (here: the mount) is gone, so a crash leaves none.
LO_FLAGS_AUTOCLEAR = 4
#: Bypass the page cache of the backing file: data would be cached twice otherwise.
LO_FLAGS_DIRECT_IO = 16

#: struct loop_config: fd, block size, struct loop_info64 (``lo_flags`` at its byte 52), reserved.
_CONFIG_BYTES = 304
_FLAGS_OFFSET = 8 + 52
#: Another process may take the free device between asking and attaching; each retry lost is one device taken.
_ATTEMPTS = 64


@contextlib.contextmanager
def attached(backing: Path, *, read_only: bool = False) -> Iterator[Path]:
    """Attach ``backing`` to a loop device for the block; it stays attached afterwards only while mounted.

    A file to write to that has a device already keeps that one: what was mounted from it may still be so in a mount
    namespace that nobody knows of, and two file systems on one file destroy it.

    Raises ``HostError`` when this machine has no loop devices to give.
    """
    device, device_fd = (None if read_only else _attached_already(backing)) or _newly_attached(backing, read_only)
    try:
        yield device
    finally:
        os.close(device_fd)


def _attached_already(backing: Path) -> tuple[Path, int] | None:
    """The device that the file has, and a descriptor that keeps it."""
    wanted = backing.resolve()
    for entry in Path("/sys/block").glob("loop*"):
        device = Path("/dev", entry.name)
        if backing_file(device) == wanted:
            try:
                device_fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            except OSError:  # it has gone meanwhile
                continue
            if backing_file(device) == wanted:
                return device, device_fd
            os.close(device_fd)
    return None


def _newly_attached(backing: Path, read_only: bool) -> tuple[Path, int]:
    flags = LO_FLAGS_AUTOCLEAR | (LO_FLAGS_READ_ONLY if read_only else 0)
    with _opened(backing, os.O_RDONLY if read_only else os.O_RDWR) as fd:
        return _attach(fd, flags)


def _attach(fd: int, flags: int) -> tuple[Path, int]:
    with _opened(_control(), os.O_RDWR) as control:
        for _ in range(_ATTEMPTS):
            device = Path(f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}")
            device_fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                _configure(device_fd, fd, flags)
            except OSError as error:
                os.close(device_fd)
                if error.errno != errno.EBUSY:
                    raise HostError(f"the loop device could not be attached: {error.strerror}") from error
            else:
                return device, device_fd
    raise HostError("no loop device could be attached: others took every free one first")


def _configure(device_fd: int, fd: int, flags: int) -> None:
    """Attach ``fd``, with direct I/O where the file system below can; ``EBUSY`` when the device is taken."""
    try:
        _ioctl_configure(device_fd, fd, flags | LO_FLAGS_DIRECT_IO)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _ioctl_configure(device_fd, fd, flags)


def _ioctl_configure(device_fd: int, fd: int, flags: int) -> None:
    config = bytearray(_CONFIG_BYTES)
    struct.pack_into("=II", config, 0, fd, 0)
    struct.pack_into("=I", config, _FLAGS_OFFSET, flags)
    fcntl.ioctl(device_fd, LOOP_CONFIGURE, config)


def refresh_size(device: Path) -> None:
    """Tell the device that its backing file has grown."""
    with _opened(device, os.O_RDWR) as fd:
        fcntl.ioctl(fd, LOOP_SET_CAPACITY)


def backing_file(device: Path) -> Path | None:
    """The file behind a loop device, ``None`` for anything else."""
    try:
        return Path(Path(f"/sys/block/{device.name}/loop/backing_file").read_text().rstrip("\n"))
    except FileNotFoundError:
        return None


def _control() -> Path:
    control = Path("/dev/loop-control")
    if not control.exists():
        raise HostError("this machine has no /dev/loop-control: load the kernel module `loop`")
    return control


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
