"""The records of snapshots. Every call hands its work to the writer thread and returns a future."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select

from cube.master.store.records import snapshot_record, snapshot_row
from cube.master.store.revisions import TemplateRevisions
from cube.master.store.secretbox import SecretBox
from cube.master.store.tables import snapshots, template_revisions
from cube.master.store.writer import Writer, execution
from cube.model.snapshot import Snapshot

_DELETE = delete(snapshots).where(snapshots.c.snapshot_id == bindparam("key"))
_ALL = select(snapshots, template_revisions.c.manifest).join(template_revisions)


class SnapshotStore:
    """The table ``snapshots``. A future's result means: committed. It fails with ``StorageFull`` or ``HostError``."""

    def __init__(self, writer: Writer, box: SecretBox, revisions: TemplateRevisions) -> None:
        self._writer = writer
        self._box = box
        self._revisions = revisions

    def insert(self, snapshot: Snapshot) -> asyncio.Future[None]:
        """Record a snapshot. Another one that has its name is forgotten in the same transaction."""
        row = snapshot_row(snapshot, self._revisions.digest(snapshot.template), self._box)
        return self._writer.submit(partial(_insert, row))

    def delete(self, snapshot_id: str) -> asyncio.Future[None]:
        """Forget a snapshot; succeeds when there is none."""
        return self._writer.submit(execution(_DELETE, {"key": snapshot_id}))

    def all(self) -> asyncio.Future[Sequence[Snapshot]]:
        """All of them. Fails with ``HostError`` when their secrets do not open."""
        return self._writer.submit(partial(_read, self._box))


def _insert(row: Mapping[str, Any], connection: Connection) -> None:
    if row["name"] is not None:
        connection.execute(delete(snapshots).where(snapshots.c.name == row["name"]))
    connection.execute(insert(snapshots), row)


def _read(box: SecretBox, connection: Connection) -> Sequence[Snapshot]:
    return [snapshot_record(row, box) for row in connection.execute(_ALL).mappings()]
