"""The records of sandboxes. Every call hands its work to the writer thread and returns a future."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, Executable, bindparam, delete, insert, select, update

from cube.master.store.records import SandboxRecord, sandbox_record, sandbox_row, template_digest, template_manifest
from cube.master.store.secretbox import SecretBox
from cube.master.store.tables import sandboxes, template_revisions
from cube.master.store.writer import Writer
from cube.model.sandbox import Sandbox, SandboxState
from cube.model.template import Template

_INSERT = insert(sandboxes)
_BY_ID = sandboxes.c.sandbox_id == bindparam("key")
_UPDATE = (
    update(sandboxes)
    .where(_BY_ID)
    .values(state=bindparam("state"), end_at=bindparam("end_at"), on_timeout=bindparam("on_timeout"))
)
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
    .order_by(sandboxes.c.ended_at)
)
_PRUNE = delete(sandboxes).where(sandboxes.c.ended_at < bindparam("before"))
_PRUNE_REVISIONS = delete(template_revisions).where(
    template_revisions.c.digest.not_in(select(sandboxes.c.template_digest))
)


class SandboxStore:
    """The tables ``sandboxes`` and ``template_revisions``.

    A future's result means: committed. It fails with ``StorageFull`` or ``HostError``.
    """

    def __init__(self, writer: Writer, box: SecretBox) -> None:
        self._writer = writer
        self._box = box
        #: Digest of each template as it was last seen, and which digests are known to be in the database.
        self._digests: dict[str, tuple[Template, str]] = {}
        self._written: set[str] = set()

    def insert(self, sandbox: Sandbox, template: Template) -> asyncio.Future[None]:
        """Record a new sandbox."""
        row = sandbox_row(sandbox, self._revision(template), self._box)
        return self._writer.submit(_execution(_INSERT, row))

    def update(self, sandbox: Sandbox) -> asyncio.Future[None]:
        """Record what of a sandbox can change: state, deadline and what the deadline does."""
        change = {
            "key": sandbox.sandbox_id,
            "state": sandbox.state.value,
            "end_at": sandbox.end_at,
            "on_timeout": sandbox.on_timeout.value,
        }
        return self._writer.submit(_execution(_UPDATE, change))

    def end(self, sandbox_id: str, ended_at: datetime) -> asyncio.Future[None]:
        """Record that a sandbox is gone."""
        return self._writer.submit(_execution(_END, {"key": sandbox_id, "ended_at": ended_at}))

    def live(self) -> asyncio.Future[Sequence[SandboxRecord]]:
        """All that have not ended, oldest first. Fails with ``HostError`` when their secrets do not open."""
        return self._writer.submit(partial(_read_live, self._box))

    def ended(self) -> asyncio.Future[Sequence[tuple[str, datetime]]]:
        """Ids of those that have ended, and when, longest ago first."""
        return self._writer.submit(_read_ended)

    def prune(self, before: datetime) -> asyncio.Future[None]:
        """Forget sandboxes that ended before that moment, and template revisions that no sandbox names."""
        # Before, so that what is inserted from now on brings its revision along; after, for what came in between.
        self._written.clear()
        pruned = self._writer.submit(partial(_prune, before))
        pruned.add_done_callback(lambda _: self._written.clear())
        return pruned

    def _revision(self, template: Template) -> str:
        """Digest of the template, which is on its way into the database when this returns."""
        manifest = None
        known = self._digests.get(template.template_id)
        if known is None or known[0] != template:
            manifest = template_manifest(template)
            known = self._digests[template.template_id] = (template, template_digest(manifest))
        digest = known[1]
        if digest not in self._written:
            self._write_revision(digest, template, manifest or template_manifest(template))
        return digest

    def _write_revision(self, digest: str, template: Template, manifest: dict[str, Any]) -> None:
        row = {"digest": digest, "template_id": template.template_id, "manifest": manifest}
        written = self._writer.submit(partial(_insert_revision, row))
        written.add_done_callback(partial(self._note_revision, digest))

    def _note_revision(self, digest: str, written: asyncio.Future[None]) -> None:
        # When it failed, the insert that needs it fails too and tells its caller; the next one tries again.
        if not written.cancelled() and written.exception() is None:
            self._written.add(digest)


def _execution(statement: Executable, parameters: Mapping[str, Any]) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        connection.execute(statement, parameters)

    return work


def _insert_revision(row: Mapping[str, Any], connection: Connection) -> None:
    present = select(template_revisions.c.digest).where(template_revisions.c.digest == row["digest"])
    if connection.scalar(present) is None:
        connection.execute(insert(template_revisions), row)


def _read_live(box: SecretBox, connection: Connection) -> Sequence[SandboxRecord]:
    return [sandbox_record(row, box) for row in connection.execute(_LIVE).mappings()]


def _read_ended(connection: Connection) -> Sequence[tuple[str, datetime]]:
    return [(row.sandbox_id, row.ended_at) for row in connection.execute(_ENDED)]


def _prune(before: datetime, connection: Connection) -> None:
    connection.execute(_PRUNE, {"before": before})
    connection.execute(_PRUNE_REVISIONS)
