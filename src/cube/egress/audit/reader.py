"""Reads the audit log for people and programs: all of it, one sandbox's part, and what comes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from cube.egress.audit.log import KEPT, numbered, parsed
from cube.egress.audit.records import Record

_PAUSE_SECONDS = 0.2


def of_sandbox(records: Iterable[Record], sandbox: str) -> Iterator[Record]:
    """Those of one sandbox, by its id or address; all of them when that is empty."""
    for record in records:
        about = record.get("sandbox") or {}
        if not sandbox or sandbox in (about.get("policy_id"), about.get("src_ip")):
            yield record


def follow(path: Path, pause: Callable[[], None] = lambda: time.sleep(_PAUSE_SECONDS)) -> Iterator[Record]:
    """All records, the oldest first, and then new ones as they come, for ever; ``pause`` waits for more.

    What is put aside meanwhile is read to its end first.
    """
    done: int | None = None
    while True:
        file = _after(path, done)
        if file is None:
            pause()
            continue
        with file:
            done = os.fstat(file.fileno()).st_ino
            yield from _to_its_end(path, file, pause)


def _after(path: Path, done: int | None) -> BinaryIO | None:
    """The file that follows the one with this inode, the oldest of all without one; ``None`` while there is none."""
    newer: BinaryIO | None = None
    for number in range(KEPT + 1):
        file = _opened(numbered(path, number))
        if file is not None and os.fstat(file.fileno()).st_ino == done:
            file.close()
            return newer
        if file is not None and newer is not None:
            newer.close()
        newer = file or newer
    return newer


def _to_its_end(path: Path, file: BinaryIO, pause: Callable[[], None]) -> Iterator[Record]:
    """The records of a file until it is no longer the one that is written."""
    inode, last = os.fstat(file.fileno()).st_ino, False
    while True:
        # Asked before it is read: afterwards a last line could have come in between.
        aside = _inode(path) != inode
        yield from _lines(file)
        if last:
            return
        if aside:
            last = True
        else:
            pause()


def _lines(file: BinaryIO) -> Iterator[Record]:
    while line := file.readline():
        if not line.endswith(b"\n"):
            # The rest of it is being written.
            file.seek(-len(line), os.SEEK_CUR)
            return
        if (record := parsed(line)) is not None:
            yield record


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
