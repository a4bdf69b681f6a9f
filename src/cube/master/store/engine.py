"""Connections to the database."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry

#: How long another process (a backup, an operator's shell) may hold the database before a write fails.
_BUSY_TIMEOUT_S = 10


def sqlite_engine(path: Path) -> Engine:
    """An engine for the embedded database, whose file is made readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _configure)
    return engine


def _configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    """WAL with ``synchronous=NORMAL``: a commit survives the end of this process, and costs no disk flush.

    Losing the last moments to a power cut is harmless: it ends the sandboxes that they were about, too.
    """
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
