"""What is written down about a running machine, so that a restarted service finds it again.

One file ``<sandbox id>.json`` in the run directory, written before the guest is spoken to. Where a machine is paused or
stopped there is none: its layer in the volume says what it is (:mod:`cube.cubelet.runtime.microvm.layers`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from cube.cubelet.runtime.container.record import start_time
from cube.model.ids import is_sandbox_id

_SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class Record:
    """One running machine."""

    #: Number of its seat: of its link, its ids, its cgroup and its sockets.
    seat: int
    #: Process id of QEMU, and when it started, in clock ticks: together they are never reused.
    pid: int
    start_time: int
    template_id: str
    machine_id: str
    boot: str
    #: Device and inode number of the file that its memory began with.
    memory: tuple[int, int]
    #: How its start went, see :class:`~cube.cubelet.runtime.microvm.stopwatch.Stopwatch`; empty while it goes on.
    began: Mapping[str, float] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether that very process still exists."""
        return start_time(self.pid) == self.start_time


_ADAPTER: TypeAdapter[Record] = TypeAdapter(Record)


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
            found = {name.removesuffix(_SUFFIX) for name in os.listdir(self._directory) if name.endswith(_SUFFIX)}
        except FileNotFoundError:
            return set()
        return {name for name in found if is_sandbox_id(name)}

    def write(self, sandbox_id: str, record: Record) -> None:
        """Write down, in place of what was written before; a crash leaves one of the two."""
        path = self._path(sandbox_id)
        unfinished = path.with_suffix(".new")
        unfinished.write_bytes(_ADAPTER.dump_json(record))
        unfinished.replace(path)

    def read(self, sandbox_id: str) -> Record | None:
        """The record, ``None`` when there is none or it makes no sense."""
        try:
            return _ADAPTER.validate_json(self._path(sandbox_id).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def all(self) -> dict[str, Record]:
        """All records of machines that are alive, by sandbox."""
        found = ((name, self.read(name)) for name in self.names())
        return {name: record for name, record in found if record is not None and record.alive}

    def forget(self, sandbox_id: str) -> None:
        """Remove it; succeeds when there is none."""
        for path in (self._path(sandbox_id), self._path(sandbox_id).with_suffix(".new")):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _path(self, sandbox_id: str) -> Path:
        return self._directory / f"{sandbox_id}{_SUFFIX}"
