"""The seam between envd and a sandbox: what can be asked of the inside, whoever carries it out.

Both runtimes implement :class:`Guest` over what ``cube-init`` serves: the container's is on the other end of a socket,
the microVM's behind a serial port. Descriptors and files that come back belong to the caller, who closes them. Every
path is resolved inside the sandbox, as the named user; nothing here follows a path on the host.

Paths: absolute, or relative to the user's home; ``~`` and ``~/x`` mean that home. An empty ``user`` means root.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Columns and rows of a pseudo-terminal."""

    cols: int
    rows: int


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """A process to start. ``env`` is laid over PATH, HOME, USER, LOGNAME and SHELL, which the guest sets from the
    user."""

    argv: tuple[str, ...]
    user: str
    cwd: str = ""
    env: dict[str, str] = field(default_factory=dict)
    stdin: bool = False
    terminal: TerminalSize | None = None


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: by exit code, or by a signal (then ``code`` is ``None``)."""

    code: int | None
    signal: int | None = None


class GuestProcess(Protocol):
    """A running process. ``pid`` is its number inside the sandbox."""

    pid: int
    #: Write end of stdin, ``None`` when stdin is /dev/null or a terminal.
    stdin: int | None
    #: Read ends; ``None`` with a terminal.
    stdout: int | None
    stderr: int | None
    #: Reads and writes the pseudo-terminal, ``None`` without one.
    terminal: int | None

    async def wait(self) -> ExitStatus:
        """Wait until it has ended; may be called by several tasks, and after the end.

        Raises ``Unavailable`` when the sandbox died or the control connection was lost first.
        """
        ...

    async def signal(self, number: int) -> None:
        """Send a signal; raises ``NotFound`` when it has ended."""
        ...

    async def resize(self, size: TerminalSize) -> None:
        """Set the size of its terminal, whose foreground processes get SIGWINCH; without one nothing happens."""
        ...


class FileType(IntEnum):
    """Type of a directory entry, with the numbers of E2B's ``filesystem.FileType``."""

    UNSPECIFIED = 0
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """One file system entry. For a symlink, everything but ``link_mode`` and ``target`` describes what it points to
    (or the link itself when it dangles)."""

    path: str
    type: FileType
    #: ``st_mode`` with type and permission bits.
    mode: int
    #: ``st_mode`` of the entry itself, not followed; differs from ``mode`` for a symlink.
    link_mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int
    owner: str
    group: str
    #: Absolute path that a symlink resolves to; empty for anything else.
    target: str = ""
    #: Extended attributes ``user.e2b.*`` without that prefix.
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Last component of the path."""
        return self.path.rstrip("/").rpartition("/")[2] or "/"


#: A piece of content.
Buffer = bytes | bytearray | memoryview


class GuestFile(Protocol):
    """An open regular file. What is started goes on when its caller is cancelled, so wait for it before closing.

    The futures raise ``StorageFull``, ``PermissionDenied``, ``InvalidInput``, ``HostError`` and, when the sandbox has
    died, ``SandboxNotRunning``.
    """

    def read_at(self, size: int, offset: int) -> asyncio.Future[bytes]:
        """At least one byte and at most ``size`` from ``offset`` on; empty at the end of the file."""
        ...

    def write(self, data: Buffer) -> asyncio.Future[None]:
        """Write everything after what was written before; one call at a time. ``data`` must stay as it is until
        then."""
        ...

    def set_attributes(self, changes: Mapping[str, str | None]) -> asyncio.Future[None]:
        """Set extended attributes by their full names, or remove those that are ``None`` and exist."""
        ...

    def identity(self) -> asyncio.Future[tuple[int, int]]:
        """Two numbers that no other file of the sandbox has as long as this one is open."""
        ...

    def finish(self) -> asyncio.Future[None]:
        """Close a file that was written to, which may wait for the disk."""
        ...

    def close(self) -> None:
        """Close a file that was read at most."""
        ...


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """An open regular file and what it was when opened. Opening never blocks."""

    file: GuestFile
    entry: Entry


class Watch(Protocol):
    """A watched directory."""

    def fileno(self) -> int:
        """A descriptor that polls readable when events wait."""
        ...

    async def read(self) -> list[WatchEvent]:
        """All events that have happened so far, in order; does not wait. Raises ``Unavailable`` when the sandbox
        died."""
        ...

    def close(self) -> None:
        """Stop watching; may be called twice."""
        ...


class EventType(IntEnum):
    """Kind of change, with the numbers of E2B's ``filesystem.EventType``."""

    CREATE = 1
    WRITE = 2
    REMOVE = 3
    RENAME = 4
    CHMOD = 5


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A change; ``name`` is relative to the watched directory."""

    name: str
    type: EventType


class Guest(Protocol):
    """What can be asked of the inside of a sandbox.

    Errors, for every call: ``NotFound`` (no such file), ``InvalidInput`` (wrong type, bad path, cwd does not exist),
    ``Unauthenticated`` (unknown user), ``PermissionDenied``, ``Conflict`` (exists already), ``StorageFull``,
    ``LimitExceeded`` (too many processes), ``SandboxNotRunning`` (the sandbox has died).
    """

    async def ping(self) -> None:
        """Return once the inside answers."""
        ...

    async def spawn(self, request: SpawnRequest) -> GuestProcess: ...

    async def open_read(self, path: str, user: str) -> OpenedFile:
        """Open a regular file for reading; ``InvalidInput`` when it is anything else."""
        ...

    async def open_write(self, path: str, user: str, *, mode: int = 0o666) -> OpenedFile:
        """Create or truncate a regular file for writing, with missing parent directories; ``InvalidInput`` for a
        directory."""
        ...

    async def stat(self, path: str, user: str) -> Entry: ...

    async def list_dir(self, path: str, user: str, depth: int) -> list[Entry]:
        """Entries below a directory in lexical walk order, at most ``depth`` levels down; their paths begin with
        ``path`` made absolute but not resolved."""
        ...

    async def make_dir(self, path: str, user: str) -> Entry:
        """Make a directory and its parents; ``Conflict`` when it is one already, ``InvalidInput`` when it is a file."""
        ...

    async def move(self, source: str, destination: str, user: str) -> Entry:
        """Rename, with missing parents of the destination; returns the entry at its new place."""
        ...

    async def remove(self, path: str, user: str) -> None:
        """Remove a file or a whole tree; a missing path is success."""
        ...

    async def watch(self, path: str, user: str, *, recursive: bool) -> Watch: ...


@dataclass(frozen=True, slots=True)
class Survivor:
    """A process of an earlier connection that runs, or of whose end nobody has been told. ``note`` is what was kept
    for it, unless the sandbox lies."""

    pid: int
    note: bytes


@runtime_checkable
class LastingGuest(Protocol):
    """What a guest can do besides whose processes and streams outlive the connection to it: another one, to the same
    guest or to a copy of it, takes them up. Errors are those of :class:`Guest`."""

    def annotate(self, pid: int, note: bytes) -> None:
        """Keep up to 4 KiB for a process that was started here; does not wait."""
        ...

    async def survivors(self) -> list[Survivor]:
        """Processes that were started through another connection and that nobody here has taken up."""
        ...

    async def take_up(self, pid: int) -> GuestProcess:
        """Follow such a process, with what has not been read of its output; raises ``NotFound``."""
        ...

    def stream_of(self, fd: int) -> int:
        """Number of the stream behind a descriptor of a process's stdio, which holds in every copy of the guest.

        Raises ``NotFound`` when the process has closed it.
        """
        ...

    async def open_streams(self, streams: Sequence[int]) -> list[int]:
        """Descriptors for streams of an earlier connection; raises ``NotFound`` when one of them is gone."""
        ...

    async def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process that any connection has started; raises ``NotFound``."""
        ...

    async def drop_rest(self) -> None:
        """Close the streams that nobody here has taken up: what reads or writes them sees its other end go."""
        ...
