"""What happened to each sandbox, for its owner: a bounded log per sandbox, also for a while after its end.

It is kept in memory: after a restart of the service it begins with that it was taken over.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice

from cube.master.sandboxes.clock import Clock
from cube.model.errors import SandboxNotFound

#: Bounds of one log. The oldest entries make room for new ones.
_ENTRIES = 1000
_CHARACTERS = 128 * 1024
#: Longest message; the rest of a longer one is cut off.
_MESSAGE = 4096
#: Logs of ended sandboxes that are kept, the latest.
_ENDED = 1000
#: Clients page by milliseconds.
_TICK = timedelta(milliseconds=1)


class LogLevel(StrEnum):
    """Severity, the least severe first."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


_SEVERITY = {level: number for number, level in enumerate(LogLevel)}


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One thing that happened. No two entries of a log have the same millisecond."""

    at: datetime
    level: LogLevel
    message: str
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which entries of a log; all conditions must hold."""

    #: Entries of this moment and after it or, backwards, before it.
    cursor: datetime | None = None
    limit: int = 1000
    backward: bool = False
    #: The least severe level.
    level: LogLevel = LogLevel.DEBUG
    #: Must be in the message, in whatever case.
    search: str = ""


@dataclass(slots=True)
class SandboxLog:
    """The log of one sandbox."""

    entries: deque[LogEntry] = field(default_factory=deque)
    characters: int = 0

    def add(self, now: datetime, level: LogLevel, message: str, fields: dict[str, str]) -> None:
        """Note something; an entry of the same millisecond as the one before is dated one later."""
        at = now.replace(microsecond=now.microsecond // 1000 * 1000)
        if self.entries:
            at = max(at, self.entries[-1].at + _TICK)
        self.entries.append(LogEntry(at, level, message[:_MESSAGE], fields))
        self.characters += _size(self.entries[-1])
        while len(self.entries) > _ENTRIES or self.characters > _CHARACTERS:
            self.characters -= _size(self.entries.popleft())

    def select(self, query: LogQuery) -> list[LogEntry]:
        """The entries of ``query``, oldest first or, backwards, newest first."""
        entries: Iterable[LogEntry] = reversed(self.entries) if query.backward else self.entries
        return list(islice(_matching(entries, query), query.limit))


def _size(entry: LogEntry) -> int:
    return len(entry.message) + sum(len(key) + len(value) for key, value in entry.fields.items())


def _matching(entries: Iterable[LogEntry], query: LogQuery) -> Iterator[LogEntry]:
    search = query.search.lower()
    for entry in entries:
        beyond = query.cursor is not None and (entry.at > query.cursor if query.backward else entry.at < query.cursor)
        severe = _SEVERITY[entry.level] >= _SEVERITY[query.level]
        if severe and not beyond and search in entry.message.lower():
            yield entry


class LogBook:
    """The logs of all sandboxes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._live: dict[str, SandboxLog] = {}
        self._ended: OrderedDict[str, SandboxLog] = OrderedDict()

    def note(self, sandbox_id: str, message: str, level: LogLevel = LogLevel.INFO, **fields: str) -> None:
        """Note what happened to a sandbox that has not ended."""
        log = self._live.get(sandbox_id)
        if log is None:
            log = self._live[sandbox_id] = SandboxLog()
        log.add(self._clock.now(), level, message, fields)

    def end(self, sandbox_id: str) -> None:
        """Note the end of a sandbox, and keep its log with those of the latest that have ended."""
        self.note(sandbox_id, "Sandbox ended")
        self._ended[sandbox_id] = self._live.pop(sandbox_id)
        if len(self._ended) > _ENDED:
            self._ended.popitem(last=False)

    def read(self, sandbox_id: str, query: LogQuery) -> list[LogEntry]:
        """Entries of a log; raises ``SandboxNotFound`` when there is none (any more)."""
        log = self._live.get(sandbox_id) or self._ended.get(sandbox_id)
        if log is None:
            raise SandboxNotFound(sandbox_id[:64])
        return log.select(query)
