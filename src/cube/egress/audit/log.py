"""The audit log as files: ``access.jsonl``, and older ones as ``access.jsonl.1`` and so on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from cube.egress.audit.records import Record
from cube.model.errors import HostError

#: When a file is put aside, and how many of those are kept.
MOST_BYTES = 64 * 1024 * 1024
KEPT = 10
_TAIL_BYTES = 4 * 1024 * 1024


class AuditLog:
    """Appends records, each in a line, many in one write: lines of several writers do not mix."""

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES, kept: int = KEPT) -> None:
        self._path = path
        self._most = most_bytes
        self._kept = kept

    def prepare(self) -> None:
        """Make sure that it can be written. Raises ``HostError``: nothing goes out that cannot be written down."""
        try:
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            os.close(self._open())
        except OSError as error:
            raise HostError(f"the audit log {self._path} cannot be written: {error.strerror}") from error

    def append(self, records: Iterable[Record]) -> None:
        """Write records. Raises ``OSError``."""
        data = b"".join(orjson.dumps(record) + b"\n" for record in records)
        if not data:
            return
        fd = self._open()
        try:
            written = 0
            while written < len(data):
                written += os.write(fd, data[written:])
            size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        if size > self._most:
            self._rotate()

    def recent(self) -> set[tuple[str, str]]:
        """Request id and event of the last lines."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return set()
        return {(record["request_id"], record["event"]) for record in map(parsed, lines) if record}

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)

    def _rotate(self) -> None:
        for number in range(self._kept, 0, -1):
            older = numbered(self._path, number)
            newer = numbered(self._path, number - 1)
            if newer.exists():
                newer.replace(older)


def numbered(path: Path, number: int) -> Path:
    """The file that was put aside as the ``number``-th last; 0 is the one that is written."""
    return path.with_name(f"{path.name}.{number}") if number else path


def parsed(line: bytes) -> Record | None:
    """A line of the log; ``None`` for one that is not whole."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def read(path: Path, kept: int = KEPT) -> Iterator[Record]:
    """All records, from the oldest on."""
    for number in range(kept, -1, -1):
        try:
            with numbered(path, number).open("rb") as file:
                for line in file:
                    if (record := parsed(line)) is not None:
                        yield record
        except FileNotFoundError:
            continue
