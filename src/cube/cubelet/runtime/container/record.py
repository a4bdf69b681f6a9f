"""What is written down about a running sandbox, so that a restarted service finds it again.

Two files per sandbox in one directory below the run directory: ``<id>.json`` and ``<id>.sock``, the listening control
socket. The record is written when the sandbox serves: what a crash leaves behind before that has no record, and its
layer, cgroup and link are found by themselves.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import orjson

from cube.cubelet.runtime import unix_sockets
from cube.model.ids import is_sandbox_id

_RECORD = "json"
_SOCKET = "sock"
_UNFINISHED = ".new"


@dataclass(frozen=True, slots=True)
class Record:
    """One sandbox. ``pid`` 0 means that its first process was not known yet."""

    seat: int
    #: Host process id of its first process, and when that started, in clock ticks: together they are never reused.
    pid: int
    start_time: int
    #: Name of the layer that it writes to.
    layer: str
    #: Its processes are being ended on purpose, and its layer is kept: whoever finds this finishes the work.
    stopping: bool = False

    @property
    def alive(self) -> bool:
        """Whether that very process still exists."""
        return start_time(self.pid) == self.start_time


#: More than the kernel says of a process there.
_STAT_BYTES = 4096


def _write(path: str, record: Record) -> None:
    # On the way of every create: a file object would ask the kernel three more things.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, orjson.dumps(record))
    finally:
        os.close(file)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; ``None`` when it is gone (a zombie counts as gone)."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fields = os.read(file, _STAT_BYTES).rpartition(b")")[2].split()
        finally:
            os.close(file)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


class Records:
    """The records of one instance."""

    def __init__(self, directory: Path) -> None:
        self._directory = os.fspath(directory)

    def prepare(self) -> None:
        """Make the directory."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)

    def names(self) -> set[str]:
        """Ids of all sandboxes of which something is there."""
        try:
            found = {name.partition(".")[0] for name in os.listdir(self._directory)}
        except FileNotFoundError:
            return set()
        return {name for name in found if is_sandbox_id(name)}

    def write(self, sandbox_id: str, record: Record) -> None:
        """Write down; one that a crash cuts off does not read as a record."""
        _write(self._path(sandbox_id, _RECORD), record)

    def replace(self, sandbox_id: str, record: Record) -> None:
        """Write down in place of what was written before; a crash leaves one of the two."""
        path = self._path(sandbox_id, _RECORD)
        _write(path + _UNFINISHED, record)
        os.rename(path + _UNFINISHED, path)

    def read(self, sandbox_id: str) -> Record | None:
        """The record, ``None`` when there is none or it makes no sense."""
        try:
            with open(self._path(sandbox_id, _RECORD), "rb") as file:
                return Record(**orjson.loads(file.read()))
        except (FileNotFoundError, TypeError, orjson.JSONDecodeError):
            return None

    def forget(self, sandbox_id: str) -> None:
        """Remove both files; succeeds when there are none."""
        for kind in (_RECORD, _RECORD + _UNFINISHED, _SOCKET):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(sandbox_id, kind))

    def listen(self, sandbox_id: str) -> socket.socket:
        """The control socket's listening end."""
        return unix_sockets.listen(self._directory, f"{sandbox_id}.{_SOCKET}", socket.SOCK_SEQPACKET)

    def connect(self, sandbox_id: str) -> socket.socket:
        """A new connection to process 1; raises ``OSError`` when nobody listens any more."""
        return unix_sockets.connect(self._directory, f"{sandbox_id}.{_SOCKET}", socket.SOCK_SEQPACKET)

    def _path(self, sandbox_id: str, kind: str) -> str:
        return f"{self._directory}/{sandbox_id}.{kind}"
