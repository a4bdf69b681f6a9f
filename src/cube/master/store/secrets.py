"""The secrets of clients, sealed. Every call hands its work to the writer thread and returns a future."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from cube.master.store.secretbox import SecretBox
from cube.master.store.tables import secrets
from cube.master.store.writer import Writer
from cube.model.secrets import Secret


class SecretTable:
    """The table ``secrets``. Futures fail with ``StorageFull`` or ``HostError``; a result means: committed."""

    def __init__(self, writer: Writer, box: SecretBox) -> None:
        self._writer = writer
        self._box = box

    def seal(self, secret: Secret, value: str) -> bytes:
        """A value, as it is kept."""
        return self._box.seal(value.encode(), _context(secret))

    def open(self, secret: Secret, sealed: bytes) -> str:
        """The value of this version of a secret. Raises ``HostError`` when it does not open."""
        return self._box.open(sealed, _context(secret)).decode()

    def all(self) -> asyncio.Future[Sequence[tuple[Secret, bytes]]]:
        """All of them and their sealed values."""
        return self._writer.submit(_read)

    def insert(self, secret: Secret, sealed: bytes) -> asyncio.Future[None]:
        """Record a new secret."""
        return self._writer.submit(partial(_insert, {"secret_id": secret.secret_id, **_row(secret, sealed)}))

    def update(self, secret: Secret, sealed: bytes) -> asyncio.Future[None]:
        """Record another version, in place of the one before."""
        return self._writer.submit(partial(_update, secret.secret_id, _row(secret, sealed)))

    def delete(self, secret_id: str) -> asyncio.Future[None]:
        """Forget a secret."""
        return self._writer.submit(partial(_delete, secret_id))


def _context(secret: Secret) -> bytes:
    return f"{secret.secret_id}:{secret.version}".encode()


def _row(secret: Secret, sealed: bytes) -> dict[str, Any]:
    return {
        "name": secret.name,
        "version": secret.version,
        "metadata": secret.metadata,
        "value": sealed,
        "created_at": secret.created_at,
        "updated_at": secret.updated_at,
    }


def _read(connection: Connection) -> Sequence[tuple[Secret, bytes]]:
    return [(_secret(row), row.value) for row in connection.execute(select(secrets))]


def _secret(row: Row[Any]) -> Secret:
    return Secret(row.secret_id, row.name, row.version, row.metadata, row.created_at, row.updated_at)


def _insert(row: dict[str, Any], connection: Connection) -> None:
    connection.execute(insert(secrets), row)


def _update(secret_id: str, row: dict[str, Any], connection: Connection) -> None:
    connection.execute(update(secrets).where(secrets.c.secret_id == secret_id).values(row))


def _delete(secret_id: str, connection: Connection) -> None:
    connection.execute(delete(secrets).where(secrets.c.secret_id == secret_id))
