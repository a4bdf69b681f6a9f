"""Which sandbox an idempotency key has created. Calls that ask the database hand their work to the writer thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sqlalchemy import Connection, delete, insert, select

from cube.master.store.secretbox import SecretBox
from cube.master.store.tables import idempotency_keys
from cube.master.store.writer import Writer

#: Keys forgotten in one transaction, some milliseconds' worth.
_PORTION = 500


@dataclass(frozen=True, slots=True)
class Claim:
    """A key and what was asked with it, as digests that tell nothing about either."""

    name: str
    request: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """What became of a key: the request that it came with, and the sandbox that this created."""

    request: str
    sandbox_id: str


class IdempotencyStore:
    """The table ``idempotency_keys``. Futures fail with ``StorageFull`` or ``HostError``."""

    def __init__(self, writer: Writer, box: SecretBox) -> None:
        self._writer = writer
        self._box = box

    def claim(self, caller: str, key: str, request: bytes) -> Claim:
        """The digests of a key, which is the caller's own: another caller's same key is another one."""
        return Claim(self._box.digest(b"key", caller.encode(), key.encode()), self._box.digest(b"request", request))

    def find(self, claim: Claim, since: datetime) -> asyncio.Future[Claimed | None]:
        """What the key has created, unless that was before ``since``."""
        return self._writer.submit(partial(_find, claim.name, since))

    def keeping(self, claim: Claim, sandbox_id: str, now: datetime) -> Callable[[Connection], None]:
        """The work of remembering that the key creates this sandbox, for the transaction that records the sandbox."""
        return partial(_keep, {"name": claim.name, "request": claim.request, "sandbox_id": sandbox_id}, now)

    def prune(self, before: datetime) -> asyncio.Future[int]:
        """Forget a portion of the keys that were used before that moment; returns how many that were."""
        return self._writer.submit(partial(_prune, before))


def freeing(sandbox_id: str) -> Callable[[Connection], None]:
    """The work of forgetting the key of a sandbox that never came to be."""
    return partial(_free, sandbox_id)


def _free(sandbox_id: str, connection: Connection) -> None:
    connection.execute(delete(idempotency_keys).where(idempotency_keys.c.sandbox_id == sandbox_id))


def _find(name: str, since: datetime, connection: Connection) -> Claimed | None:
    table = idempotency_keys.c
    query = select(table.request, table.sandbox_id).where(table.name == name, table.created_at >= since)
    row = connection.execute(query).one_or_none()
    return None if row is None else Claimed(row.request, row.sandbox_id)


def _keep(row: dict[str, str], now: datetime, connection: Connection) -> None:
    # An older use of the same key may be waiting to be forgotten.
    connection.execute(delete(idempotency_keys).where(idempotency_keys.c.name == row["name"]))
    connection.execute(insert(idempotency_keys), {**row, "created_at": now})


def _prune(before: datetime, connection: Connection) -> int:
    portion = select(idempotency_keys.c.name).where(idempotency_keys.c.created_at < before).limit(_PORTION)
    return connection.execute(delete(idempotency_keys).where(idempotency_keys.c.name.in_(portion))).rowcount
