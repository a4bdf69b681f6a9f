"""Turns what Envoy has noted into the audit log, in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cube.egress.audit.log import AuditLog, parsed
from cube.egress.audit.records import Record, SecretsOf, records
from cube.egress.audit.spool import Part, Spool

_log = logging.getLogger(__name__)
_PAUSE_SECONDS = 0.2


class AuditWriter:
    """``reopen`` asks Envoy to open its log again, after the file was given another name."""

    def __init__(
        self, spool: Spool, log: AuditLog, secrets_of: SecretsOf, reopen: Callable[[], Awaitable[None]]
    ) -> None:
        self._spool = spool
        self._log = log
        self._secrets_of = secrets_of
        self._reopen = reopen
        #: What an earlier run wrote without saying so; looked up before the first part.
        self._written: set[tuple[str, str]] | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self.catch_up()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def catch_up(self) -> None:
        """Write down all that there is now. A disk that is full is tried again later; nothing is lost by that."""
        try:
            while await asyncio.to_thread(self._step):
                pass
            if self._spool.long:
                self._spool.put_aside()
                await self._reopen()
        except OSError as error:
            _log.error("the egress audit log could not be written, again in a moment: %s", error)

    def _step(self) -> bool:
        part = self._spool.next()
        if part is None:
            return False
        self._log.append(self._fresh(self._records(part)))
        self._spool.done(part)
        return True

    def _records(self, part: Part) -> list[Record]:
        return [record for line in part.lines for record in self._of_line(line)]

    def _of_line(self, line: bytes) -> list[Record]:
        raw = parsed(line)
        try:
            return records(raw, self._secrets_of) if raw else []
        except Exception:  # noqa: BLE001  one line that cannot be read must not stop all others
            _log.exception("a line of the egress audit could not be read")
            return []

    def _fresh(self, found: list[Record]) -> list[Record]:
        """Without what is in the log already."""
        if self._written is None:
            self._written = self._log.recent()
        if not self._written:
            return found
        fresh = [record for record in found if (record["request_id"], record["event"]) not in self._written]
        if len(fresh) == len(found):
            # Past what the earlier run had done: nothing more can be there twice.
            self._written = set()
        return fresh
