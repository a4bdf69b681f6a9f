"""The sparse file behind the volume: made, mounted through a loop device, grown, adopted."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

from cube.cubelet.storage import btrfs, loop, mounts
from cube.model.errors import HostError

#: ``discard=async`` gives blocks of removed layers back to the file below. The loop device calls itself rotational,
#: ``ssd`` undoes what btrfs would conclude from that. ``nodatacow`` overwrites in place: 1.6 times faster at random
#: 4 KiB writes, and a layer is not charged twice for what it overwrites, so its quota means what it says. Snapshots
#: still share and copy.
OPTIONS = "ssd,discard=async,nodatacow"
_FLAGS = mounts.MS_NOATIME | mounts.MS_NODEV | mounts.MS_NOSUID
#: Part of the free space that an automatic size takes; the file is sparse, so this is an upper limit.
_AUTOMATIC_SHARE = 0.8
#: mkfs.btrfs refuses less than about 110 MiB, and a volume that small is of no use.
_LEAST_BYTES = 256 << 20


def mount_volume(image: Path, mount_point: Path, wanted: int) -> None:
    """Mount the volume in ``image``, at least ``wanted`` bytes large (0: most of the free space, once).

    Raises ``OSError`` or ``HostError``.
    """
    mount_point.mkdir(parents=True, exist_ok=True)
    if not image.exists():
        _make(image, wanted or _automatic_size(image.parent))
    current = mounts.find(mount_point)
    grown = _grow_file(image, wanted)
    device = _mount(image, mount_point) if current is None else _adopt(current, image)
    if grown or current is not None:
        _grow_file_system(device, mount_point)
    btrfs.enable_quotas(mount_point)


def _make(image: Path, size: int) -> None:
    """Format a new file beside ``image``, then rename it: an interrupted run leaves no half-made volume."""
    if size < _LEAST_BYTES:
        raise HostError(f"{image.parent} has too little free space for a volume of writable layers")
    unfinished = image.with_suffix(".new")
    with unfinished.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.truncate(size)
    _mkfs(unfinished)
    unfinished.rename(image)


def _mkfs(image: Path) -> None:
    program = shutil.which("mkfs.btrfs")
    if program is None:
        raise HostError("mkfs.btrfs is not installed: apt-get install btrfs-progs")
    command = [program, "--quiet", "--force", "--data", "single", "--metadata", "single", "--label", "cube", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostError(f"mkfs.btrfs failed: {done.stderr.strip()[-500:]}")


def _automatic_size(directory: Path) -> int:
    space = os.statvfs(directory)
    return int(space.f_bavail * space.f_frsize * _AUTOMATIC_SHARE) & ~0xFFFFF


def _grow_file(image: Path, wanted: int) -> bool:
    if image.stat().st_size >= wanted:
        return False
    os.truncate(image, wanted)
    return True


def _mount(image: Path, mount_point: Path) -> Path:
    with loop.attached(image) as device:
        try:
            mounts.mount(device, mount_point, "btrfs", _FLAGS, OPTIONS)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            raise HostError("this kernel has no btrfs: load the kernel module `btrfs`") from error
    return device


def _adopt(mount: mounts.Mount, image: Path) -> Path:
    """The loop device of a volume that is mounted already; raises ``HostError`` when it is something else."""
    device = Path(mount.source)
    if mount.file_system != "btrfs" or loop.backing_file(device) != image.resolve():
        raise HostError(f"{mount.mount_point} is occupied by another file system: unmount it first")
    return device


def _grow_file_system(device: Path, mount_point: Path) -> None:
    loop.refresh_size(device)
    with btrfs.directory(mount_point) as fd:
        btrfs.resize_to_device(fd)
