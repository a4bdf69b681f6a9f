"""mount(2), umount2(2) and the mount table of this process."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

# <linux/mount.h>
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOATIME = 0x400

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table."""

    mount_point: Path
    file_system: str
    source: str


def mount(source: str | os.PathLike[str], target: Path, file_system: str, flags: int, options: str = "") -> None:
    """Mount ``source`` at ``target``; raises ``OSError`` with the kernel's reason."""
    arguments = (os.fsencode(source), os.fsencode(target), file_system.encode(), flags, options.encode())
    if _libc.mount(*arguments) != 0:
        _raise(target)


def umount(target: Path) -> None:
    """Take the topmost mount away from ``target``; raises ``OSError``, with ``EBUSY`` while it is in use."""
    if _libc.umount2(os.fsencode(target), 0) != 0:
        _raise(target)


def _raise(target: Path) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), str(target))


def find(target: Path) -> Mount | None:
    """The topmost mount at exactly ``target``, or ``None``."""
    wanted = target.resolve()
    return next((entry for entry in reversed(mounts()) if entry.mount_point == wanted), None)


def holding(path: Path) -> Mount:
    """The mount that ``path`` lies on, or would lie on if it existed."""
    wanted = path.resolve()
    # Of several at one place the last one is on top.
    holders = (entry for entry in reversed(mounts()) if wanted.is_relative_to(entry.mount_point))
    return max(holders, key=lambda entry: len(entry.mount_point.parts))


def below(directory: Path) -> list[Mount]:
    """Mounts at or below ``directory``, latest first: the order in which they can be taken away."""
    root = directory.resolve()
    return [entry for entry in reversed(mounts()) if entry.mount_point.is_relative_to(root)]


def mounts() -> list[Mount]:
    """The mount table, oldest first (proc_pid_mountinfo(5))."""
    return [_parse(line) for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()]


def _parse(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    file_system, source = after.split(" ")[:2]
    return Mount(Path(_unescape(before.split(" ")[4])), file_system, _unescape(source))


def _unescape(text: str) -> str:
    """Undo the kernel's octal escapes of blank, tab, newline and backslash."""
    for character in " \t\n":
        text = text.replace(f"\\{ord(character):03o}", character)
    return text.replace("\\134", "\\")
