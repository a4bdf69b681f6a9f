"""Volumes: directories that outlive sandboxes and that several of them can mount at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

#: What a client may call a volume.
VOLUME_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
#: Directories of a listing below the one that was asked for, at most.
DEEPEST = 10


class VolumeState(StrEnum):
    """Life of a volume. Clients see those that are ready; the others last for one operation, or until the next start
    of the service when that operation was cut off."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume as recorded by the master."""

    volume_id: str
    name: str
    #: Most that it can hold, in MiB.
    quota_mb: int
    created_at: datetime
    state: VolumeState = VolumeState.READY


class EntryType(StrEnum):
    """What an entry of a volume is; everything that is not one of the others (devices, pipes, sockets) is unknown."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class VolumeEntry:
    """A file or directory of a volume. Names that are not UTF-8 have replacement characters."""

    name: str
    type: EntryType
    #: Absolute, from the volume's root.
    path: str
    size: int
    #: Permission bits, with set-uid, set-gid and sticky.
    mode: int
    #: As sandboxes see them.
    uid: int
    gid: int
    atime: datetime
    mtime: datetime
    ctime: datetime
    #: What a symbolic link says, not followed.
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Attributes:
    """Owner and permission bits to be set; ``None`` leaves one as it is, or takes the default for what is new."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
