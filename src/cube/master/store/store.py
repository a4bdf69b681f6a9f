"""The store as a whole: database, writer thread, key."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import Engine

from cube.master.store.builds import BuildTable
from cube.master.store.engine import sqlite_engine
from cube.master.store.idempotency import IdempotencyStore
from cube.master.store.migrate import migrate
from cube.master.store.revisions import TemplateRevisions
from cube.master.store.sandboxes import SandboxStore
from cube.master.store.secretbox import SecretBox
from cube.master.store.secrets import SecretTable
from cube.master.store.snapshots import SnapshotStore
from cube.master.store.volumes import VolumeTable
from cube.master.store.writer import Writer


class Store:
    """An open database; made by :meth:`open`, to be closed with :meth:`close`."""

    def __init__(self, engine: Engine, box: SecretBox) -> None:
        self._engine = engine
        self._writer = Writer(engine)
        self.revisions = TemplateRevisions(self._writer)
        self.sandboxes = SandboxStore(self._writer, box, self.revisions)
        self.snapshots = SnapshotStore(self._writer, box, self.revisions)
        self.idempotency = IdempotencyStore(self._writer, box)
        self.volumes = VolumeTable(self._writer, box)
        self.secrets = SecretTable(self._writer, box)
        self.builds = BuildTable(self._writer, box)

    @classmethod
    async def open(cls, database: Path) -> Store:
        """Open the embedded database, made or migrated as needed; its key file is ``secret.key`` beside it.

        Raises ``HostError`` when the database or the key cannot be used.
        """
        engine, box = await asyncio.to_thread(_prepare, database)
        return cls(engine, box)

    async def close(self) -> None:
        """Write what is still queued and let go of the database. May be called twice."""
        await self._writer.close()
        self._engine.dispose()


def _prepare(database: Path) -> tuple[Engine, SecretBox]:
    engine = sqlite_engine(database)
    migrate(engine)
    return engine, SecretBox.from_file(database.with_name("secret.key"))
