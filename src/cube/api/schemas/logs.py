"""What happened to a sandbox, as clients see it."""

from __future__ import annotations

from datetime import datetime

from cube.api.schemas.base import ResponseBody
from cube.master.sandboxes.logbook import LogLevel


class SandboxLogEntry(ResponseBody):
    """One thing that happened."""

    timestamp: datetime
    message: str
    level: LogLevel
    fields: dict[str, str]


class SandboxLogLine(ResponseBody):
    """The same for older clients."""

    timestamp: datetime
    line: str


class SandboxLogs(ResponseBody):
    """Answer of the first version."""

    logs: list[SandboxLogLine]
    log_entries: list[SandboxLogEntry]


class SandboxLogsV2(ResponseBody):
    """Answer of the second version."""

    logs: list[SandboxLogEntry]
