"""What is written down about a running sandbox, so that a restarted service finds it again.

One directory per sandbox below the run directory: ``record.json`` and the listening control socket. It is written
before the first process starts (without its number), so that even a crash in between leaves a trace of the seat that
is in use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from cube.model.ids import is_sandbox_id

_RECORD = "record.json"
_SOCKET = "control.sock"


@dataclass(frozen=True, slots=True)
class Record:
    """One sandbox. ``pid`` 0 means that its first process was not known yet."""

    seat: int
    #: Host process id of its first process, and when that started, in clock ticks: together they are never reused.
    pid: int = 0
    start_time: int = 0

    @property
    def alive(self) -> bool:
        """Whether that very process still exists."""
        return self.pid != 0 and start_time(self.pid) == self.start_time


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; ``None`` when it is gone (a zombie counts as gone)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


class Records:
    """The records of one instance."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """Make the directory."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def names(self) -> set[str]:
        """Ids of all sandboxes that are written down."""
        try:
            return {name for name in os.listdir(self._directory) if is_sandbox_id(name)}
        except FileNotFoundError:
            return set()

    def write(self, sandbox_id: str, record: Record) -> None:
        """Write down or replace, atomically."""
        directory = self._directory / sandbox_id
        directory.mkdir(exist_ok=True, mode=0o700)
        fresh = directory / f".{_RECORD}"
        fresh.write_bytes(orjson.dumps(asdict(record)))
        fresh.replace(directory / _RECORD)

    def read(self, sandbox_id: str) -> Record | None:
        """The record, ``None`` when there is none or it makes no sense."""
        try:
            return Record(**orjson.loads((self._directory / sandbox_id / _RECORD).read_bytes()))
        except (FileNotFoundError, TypeError, orjson.JSONDecodeError):
            return None

    def forget(self, sandbox_id: str) -> None:
        """Remove the directory; succeeds when there is none."""
        shutil.rmtree(self._directory / sandbox_id, ignore_errors=True)

    def listen(self, sandbox_id: str) -> socket.socket:
        """The control socket's listening end."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            with self._address(sandbox_id) as address:
                listener.bind(address)
            listener.listen(8)
        except BaseException:
            listener.close()
            raise
        return listener

    def connect(self, sandbox_id: str) -> socket.socket:
        """A new connection to process 1; raises ``OSError`` when nobody listens any more."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            with self._address(sandbox_id) as address:
                connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _address(self, sandbox_id: str) -> Iterator[str]:
        """The socket's path through a descriptor: the kernel takes 107 bytes, the run directory may be deeper."""
        directory = os.open(self._directory / sandbox_id, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{directory}/{_SOCKET}"
        finally:
            os.close(directory)
