"""``/sandboxes/{id}/logs``: what happened to a sandbox."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from cube.api.openapi import failures
from cube.api.schemas.base import respond
from cube.api.schemas.logs import SandboxLogEntry, SandboxLogLine, SandboxLogs, SandboxLogsV2
from cube.master.sandboxes.logbook import LogEntry, LogLevel, LogQuery
from cube.master.sandboxes.service import SandboxService

#: Longest answer, and the answer when no limit is given.
_PAGE = 1000
#: The last millisecond that Python's dates know.
_LAST = 253_402_300_799_999

_Milliseconds = Annotated[int | None, Query(ge=0, le=_LAST, description="Milliseconds since 1970, inclusive.")]
_Limit = Annotated[int, Query(ge=0, le=_PAGE)]


class LogRoutes:
    """The routes, over a service."""

    def __init__(self, service: SandboxService) -> None:
        self._service = service

    def router(self) -> APIRouter:
        """The routes as FastAPI takes them."""
        router = APIRouter(tags=["logs"])
        router.add_api_route(
            "/v2/sandboxes/{sandbox_id}/logs", self.entries, response_model=SandboxLogsV2, responses=failures(404)
        )
        router.add_api_route(
            "/sandboxes/{sandbox_id}/logs", self.lines, response_model=SandboxLogs, responses=failures(404)
        )
        return router

    async def entries(
        self,
        sandbox_id: str,
        cursor: _Milliseconds = None,
        limit: _Limit = _PAGE,
        direction: Literal["forward", "backward"] = "forward",
        level: Annotated[LogLevel, Query(description="The least severe level.")] = LogLevel.DEBUG,
        search: Annotated[str, Query(max_length=256, description="A part of the message, in any case.")] = "",
    ) -> Response:
        """What happened from the cursor on, oldest first; or before it, newest first."""
        query = LogQuery(_moment(cursor), limit, direction == "backward", level, search)
        entries = self._service.logs(sandbox_id, query)
        return respond(SandboxLogsV2(logs=[_entry(entry) for entry in entries]))

    async def lines(self, sandbox_id: str, start: _Milliseconds = None, limit: _Limit = _PAGE) -> Response:
        """What happened, oldest first (older clients)."""
        entries = self._service.logs(sandbox_id, LogQuery(_moment(start), limit))
        lines = [SandboxLogLine(timestamp=entry.at, line=entry.message) for entry in entries]
        return respond(SandboxLogs(logs=lines, log_entries=[_entry(entry) for entry in entries]))


def _entry(entry: LogEntry) -> SandboxLogEntry:
    return SandboxLogEntry(timestamp=entry.at, message=entry.message, level=entry.level, fields=entry.fields)


def _moment(milliseconds: int | None) -> datetime | None:
    if milliseconds is None:
        return None
    seconds, rest = divmod(milliseconds, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)
