"""What builds say. In memory: the lines of the latest builds, as many as fit, and how they ended is recorded anyway."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime

from cube.model.builds import BuildLine

#: Builds whose lines are kept, lines of one build, characters of one line.
_BUILDS, _LINES, _LENGTH = 200, 20_000, 4096
LEVELS = ("debug", "info", "warn", "error")


class BuildLog:
    """The lines of one build. They are never taken back: a client counts what it has had."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._lines: list[BuildLine] = []

    def note(self, message: str, step: str = "", level: str = "info") -> None:
        """Add what has happened, a line each. Beyond the bound one line says that the rest is left out."""
        for line in message.splitlines():
            if len(self._lines) == _LINES:
                self._lines.append(BuildLine(self._now(), "warn", "more than can be kept: the rest is left out", step))
            if len(self._lines) > _LINES:
                return
            self._lines.append(BuildLine(self._now(), level, line[:_LENGTH], step))

    def lines(self, least: str = "debug") -> Sequence[BuildLine]:
        """All of at least this level."""
        wanted = LEVELS[LEVELS.index(least) :]
        return [line for line in self._lines if line.level in wanted]


class BuildLogs:
    """The logs of all builds."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._logs: OrderedDict[str, BuildLog] = OrderedDict()

    def of(self, build_id: str) -> BuildLog:
        """The log of a build; an empty one when there is none (any more)."""
        return self._logs.get(build_id) or BuildLog(self._now)

    def begin(self, build_id: str) -> BuildLog:
        """A new log."""
        log = self._logs[build_id] = BuildLog(self._now)
        if len(self._logs) > _BUILDS:
            self._logs.popitem(last=False)
        return log

    def forget(self, build_id: str) -> None:
        """Drop the log of a build."""
        self._logs.pop(build_id, None)
