"""The records of sandboxes. Every call hands its work to the writer thread and returns a future."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from cube.master.store.idempotency import freeing
from cube.master.store.records import SandboxRecord, sandbox_record, sandbox_row, seal
from cube.master.store.revisions import TemplateRevisions
from cube.master.store.secretbox import SecretBox
from cube.master.store.tables import sandboxes, template_revisions
from cube.master.store.writer import Writer, execution
from cube.model.sandbox import Sandbox, SandboxState
from cube.model.template import Template

#: Sandboxes forgotten in one transaction, some milliseconds' worth.
_PORTION = 500

_INSERT = insert(sandboxes)
_BY_ID = sandboxes.c.sandbox_id == bindparam("key")
_UPDATE = (
    update(sandboxes)
    .where(_BY_ID)
    .values({name: bindparam(name) for name in ("state", "end_at", "on_timeout", "pause_mode")})
)
_SEAL = update(sandboxes).where(_BY_ID).values(secrets=bindparam("secrets"))
_END = update(sandboxes).where(_BY_ID).values(state=SandboxState.KILLED.value, ended_at=bindparam("ended_at"))
_LIVE = (
    select(sandboxes, template_revisions.c.manifest)
    .join(template_revisions)
    .where(sandboxes.c.ended_at.is_(None))
    .order_by(sandboxes.c.started_at, sandboxes.c.sandbox_id)
)
_ENDED = (
    select(sandboxes.c.sandbox_id, sandboxes.c.ended_at)
    .where(sandboxes.c.ended_at.is_not(None))
    .order_by(sandboxes.c.ended_at.desc())
)


class SandboxStore:
    """The table ``sandboxes``.

    A future's result means: committed. It fails with ``StorageFull`` or ``HostError``.
    """

    def __init__(self, writer: Writer, box: SecretBox, revisions: TemplateRevisions) -> None:
        self._writer = writer
        self._box = box
        self._revisions = revisions

    def insert(
        self, sandbox: Sandbox, template: Template, also: Callable[[Connection], None] | None = None
    ) -> asyncio.Future[None]:
        """Record a new sandbox; ``also`` is done in the same transaction."""
        row = sandbox_row(sandbox, self._revisions.digest(template), self._box)
        return self._writer.submit(execution(_INSERT, row, also))

    def update(self, sandbox: Sandbox) -> asyncio.Future[None]:
        """Record what of a sandbox can change: state, deadline, what the deadline does and what a pause has kept."""
        change = {
            "key": sandbox.sandbox_id,
            "state": sandbox.state.value,
            "end_at": sandbox.end_at,
            "on_timeout": sandbox.on_timeout.value,
            "pause_mode": sandbox.pause_mode,
        }
        return self._writer.submit(execution(_UPDATE, change))

    def update_network(self, sandbox: Sandbox) -> asyncio.Future[None]:
        """Record what a sandbox may reach, which is encrypted with its other secrets."""
        sealed = {"key": sandbox.sandbox_id, "secrets": seal(sandbox, self._box)}
        return self._writer.submit(execution(_SEAL, sealed))

    def end(self, sandbox_id: str, ended_at: datetime) -> asyncio.Future[None]:
        """Record that a sandbox is gone."""
        return self._writer.submit(execution(_END, {"key": sandbox_id, "ended_at": ended_at}))

    def abandon(self, sandbox_id: str, ended_at: datetime) -> asyncio.Future[None]:
        """Record that a sandbox is gone that never ran; the idempotency key that asked for it is free again."""
        return self._writer.submit(execution(_END, {"key": sandbox_id, "ended_at": ended_at}, freeing(sandbox_id)))

    def live(self) -> asyncio.Future[Sequence[SandboxRecord]]:
        """All that have not ended, oldest first. Fails with ``HostError`` when their secrets do not open."""
        return self._writer.submit(partial(_read_live, self._box))

    def ended(self, limit: int) -> asyncio.Future[Sequence[tuple[str, datetime]]]:
        """Ids of the last ``limit`` that have ended, and when, longest ago first."""
        return self._writer.submit(partial(_read_ended, limit))

    def prune(self, before: datetime, *, keep: int) -> asyncio.Future[int]:
        """Forget sandboxes that ended before that moment, and all but the last ``keep`` that have ended.

        Forgets a portion and returns how many that were, 0 when there is nothing left to forget.
        """
        return self._writer.submit(partial(_prune, before, keep))


def _read_live(box: SecretBox, connection: Connection) -> Sequence[SandboxRecord]:
    return [sandbox_record(row, box) for row in connection.execute(_LIVE).mappings()]


def _read_ended(limit: int, connection: Connection) -> Sequence[tuple[str, datetime]]:
    newest = connection.execute(_ENDED.limit(limit)).all()
    return [(row.sandbox_id, row.ended_at) for row in reversed(newest)]


def _prune(before: datetime, keep: int, connection: Connection) -> int:
    beyond = connection.execute(_ENDED.offset(keep).limit(1)).one_or_none()
    last = before if beyond is None else max(before, beyond.ended_at)
    portion = select(sandboxes.c.sandbox_id).where(sandboxes.c.ended_at <= last).limit(_PORTION)
    return connection.execute(delete(sandboxes).where(sandboxes.c.sandbox_id.in_(portion))).rowcount
