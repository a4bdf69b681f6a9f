"""The file that Envoy writes and the service reads: which part is done, and how it is made short again.

Lines are never lost: a part counts as done only when its records are in the audit log. Should the service be killed
in between, the part is read again, and what is in the log already is left out.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

#: Read at once. A line with two bodies has a sixth of it.
_PART_BYTES = 1024 * 1024
#: From here on a file that was read to its end is replaced.
LONG_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """Lines, and where they end."""

    lines: list[bytes]
    file: int
    end: int


class Spool:
    """``directory/spool.jsonl``, and ``directory/spool.old`` while Envoy changes from one file to the next."""

    def __init__(self, directory: Path, state: Path, *, long_bytes: int = LONG_BYTES) -> None:
        self.directory = directory
        self.path = directory / "spool.jsonl"
        self._old = directory / "spool.old"
        self._state = state
        self._long = long_bytes

    def next(self) -> Part | None:
        """The next lines that are not done; ``None`` when there are none."""
        for path in (self._old, self.path):
            part = self._read(path)
            if part is not None:
                return part
        self._forget_old()
        return None

    def done(self, part: Part) -> None:
        """These lines need not be read again."""
        done = self._done()
        done[str(part.file)] = part.end
        self._save(done)

    @property
    def long(self) -> bool:
        """Whether the file should be replaced."""
        return not self._old.exists() and _size(self.path) > self._long

    def put_aside(self) -> None:
        """Give the file another name. Envoy writes on to it until it is told to open its log again."""
        self.path.rename(self._old)

    def _read(self, path: Path) -> Part | None:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        with file:
            number = os.fstat(file.fileno()).st_ino
            begin = self._done().get(str(number), 0)
            file.seek(begin)
            data = file.read(_PART_BYTES)
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) == _PART_BYTES:
            # No line of ours is that long.
            end = len(data)
        return Part(data[:end].splitlines(), number, begin + end) if end else None

    def _forget_old(self) -> None:
        """What was put aside is done, and Envoy writes to the next file."""
        if self._old.exists() and self.path.exists() and self._read(self._old) is None:
            self._old.unlink()
            self._save({name: end for name, end in self._done().items() if name == str(self.path.stat().st_ino)})

    def _done(self) -> dict[str, int]:
        try:
            return {str(name): int(end) for name, end in json.loads(self._state.read_text()).items()}
        except (FileNotFoundError, ValueError, AttributeError):
            return {}

    def _save(self, done: dict[str, int]) -> None:
        draft = self._state.with_suffix(".draft")
        draft.write_text(json.dumps(done))
        draft.replace(self._state)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
