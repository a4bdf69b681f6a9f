"""The archive that the kernel unpacks into its first file system: cpio, format ``newc``."""

from __future__ import annotations

import stat
from dataclasses import dataclass

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Member:
    """A file, a directory or a device; ``path`` has no leading slash, and its parents come before it."""

    path: str
    #: With the bits of its type.
    mode: int
    content: bytes = b""
    #: Major and minor number of a device.
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> Member:
    """An empty directory."""
    return Member(path, stat.S_IFDIR | 0o755)


def archive(members: list[Member]) -> bytes:
    """The whole archive: root owns everything, and nothing depends on when or where it was made."""
    parts = [_member(member, number) for number, member in enumerate(members, start=1)]
    parts.append(_member(Member(_TRAILER, 0), 0))
    return b"".join(parts)


def _member(member: Member, number: int) -> bytes:
    name = member.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(member.mode) else 1
    fields = (number, member.mode, 0, 0, links, 0, len(member.content), 0, 0, *member.device, len(name), 0)
    header = _MAGIC + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name) + _padded(member.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
