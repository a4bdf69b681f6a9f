"""The memory of a stopped machine, taken from outside: only what differs from the file that it was started from.

QEMU maps the file privately. A page that the guest (or a device) has written to is then anonymous memory of the
process, and the kernel says so in ``/proc/<pid>/pagemap``; all others are pages of the file. So a capture is a clone of
the file with the anonymous pages laid over it, and costs what the guest has written, whatever its size.

The process may be hostile. What it can do is to spoil the capture of its own machine; addresses and lengths are
checked.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Final

from cube.cubelet.runtime.microvm import command
from cube.cubelet.storage.sparse import BLOCK
from cube.model.errors import HostError

PAGE: Final = 4096
#: Bytes of one entry of a pagemap (Documentation/admin-guide/mm/pagemap.rst), of which the last has the flags.
_ENTRY: Final = 8
_PRESENT, _SWAPPED, _OF_FILE = 0x80, 0x40, 0x20
#: For each byte of flags: 1 for a page of the process's own.
_OWN: Final = bytes(int(bool(flags & (_PRESENT | _SWAPPED)) and not flags & _OF_FILE) for flags in range(256))
_RUN: Final = re.compile(b"\x01+")
#: Runs with at most so many pages between them are copied as one: a system call costs more than the pages.
_GAP: Final = 8
_MAPPING: Final = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) rw-p ([0-9a-f]+) \S+ \d+\s+" + command.MEMORY.encode() + rb"$")

#: Pages from the first to before the second, counted from the beginning of the memory.
Run = tuple[int, int]


def find(pid: int, size: int) -> int:
    """Address at which a process has its memory of ``size`` bytes; raises ``HostError`` when it has no such thing."""
    with _of_process(pid), open(f"/proc/{pid}/maps", "rb") as maps:
        found = [match for line in maps if (match := _MAPPING.match(line.rstrip(b"\n")))]
    parts = sorted((int(match[3], 16), int(match[1], 16), int(match[2], 16)) for match in found)
    expected = 0
    for offset, begin, end in parts:
        if offset != expected or begin - parts[0][1] != offset:
            raise HostError("the memory of the machine is not mapped as one")
        expected = offset + end - begin
    if not parts or expected != size:
        raise HostError(f"the machine has {expected} bytes of memory mapped instead of {size}")
    return parts[0][1]


def own_runs(pid: int, address: int, size: int) -> list[Run]:
    """The pages that are the process's own. Raises ``HostError``."""
    with _of_process(pid), open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        wanted = size // PAGE * _ENTRY
        entries = bytearray()
        while len(entries) < wanted:
            part = os.pread(pagemap.fileno(), wanted - len(entries), address // PAGE * _ENTRY + len(entries))
            if not part:
                raise HostError("the kernel does not tell which pages a machine has written to")
            entries += part
    flags = bytes(entries[_ENTRY - 1 :: _ENTRY]).translate(_OWN)
    return list(_joined((match.start(), match.end()) for match in _RUN.finditer(flags)))


def bytes_of(runs: Sequence[Run]) -> int:
    """How much runs hold."""
    return sum(end - begin for begin, end in runs) * PAGE


def lay_over(pid: int, address: int, runs: Sequence[Run], target: int) -> None:
    """Write these pages of a stopped process into an open file. Raises ``HostError``, and ``OSError`` for the file."""
    buffer = memoryview(bytearray(BLOCK))
    with _of_process(pid):
        source = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for begin, end in runs:
            for first in range(begin * PAGE, end * PAGE, BLOCK):
                part = buffer[: min(BLOCK, end * PAGE - first)]
                with _of_process(pid):
                    _read(source, part, address + first)
                _write(target, part, first)
    finally:
        os.close(source)


def _joined(runs: Iterator[Run]) -> Iterator[Run]:
    """Runs that lie close together as one."""
    current: Run | None = None
    for begin, end in runs:
        if current is not None and begin - current[1] <= _GAP:
            current = (current[0], end)
            continue
        if current is not None:
            yield current
        current = (begin, end)
    if current is not None:
        yield current


def _read(source: int, part: memoryview, position: int) -> None:
    done = 0
    while done < len(part):
        count = os.preadv(source, [part[done:]], position + done)
        if count == 0:
            raise HostError("the memory of the machine has gone")
        done += count


def _write(target: int, part: memoryview, position: int) -> None:
    done = 0
    while done < len(part):
        done += os.pwrite(target, part[done:], position + done)


@contextlib.contextmanager
def _of_process(pid: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"the memory of process {pid} cannot be read: {error.strerror}") from error
