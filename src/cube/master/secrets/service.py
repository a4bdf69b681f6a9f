"""What can be done with secrets. Their values stay sealed in memory too, until one is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from cube.master import paging
from cube.master.sandboxes.clock import Clock
from cube.master.store.secrets import SecretTable
from cube.model.errors import Conflict, LimitExceeded, SecretNotFound
from cube.model.ids import new_secret_id
from cube.model.secrets import Secret, canonical_name, fill

log = structlog.get_logger(__name__)

#: Secrets of one server.
_MOST = 10_000
#: Unknown names are repeated to the client, but not at any length.
_LONGEST_ECHO = 64


@dataclass(frozen=True, slots=True)
class _Kept:
    secret: Secret
    sealed: bytes


class SecretService:
    """Secrets by id and by name. Besides what each method names, all that change something raise ``StorageFull`` or
    ``HostError`` when the store fails; then nothing is changed."""

    def __init__(self, table: SecretTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._ids: dict[str, str] = {}
        self._changing = asyncio.Lock()
        self._callbacks: list[Callable[[str], None]] = []

    async def start(self) -> None:
        """Read what is recorded."""
        for secret, sealed in await self._table.all():
            self._keep(secret, sealed)

    async def create(self, name: str, value: str, metadata: dict[str, str]) -> Secret:
        """Keep a new secret. Raises ``InvalidInput`` (``name``), ``Conflict`` when the name is taken."""
        name = canonical_name(name)
        async with self._changing:
            if name in self._ids:
                raise Conflict(f"a secret with the name {name!r} exists already: update it, or choose another name")
            if len(self._kept) >= _MOST:
                raise LimitExceeded(f"this server keeps at most {_MOST} secrets: delete some")
            now = self._clock.now()
            secret = Secret(new_secret_id(), name, 1, metadata, now, now)
            sealed = self._table.seal(secret, value)
            await self._table.insert(secret, sealed)
            self._keep(secret, sealed)
        self._changed(secret, "secret.created")
        return secret

    async def update(self, reference: str, value: str, metadata: dict[str, str] | None) -> Secret:
        """Give a secret another value, and other metadata unless that is ``None``. Raises ``SecretNotFound``."""
        async with self._changing:
            found = self.get(reference)
            secret = replace(
                found,
                version=found.version + 1,
                metadata=found.metadata if metadata is None else metadata,
                updated_at=self._clock.now(),
            )
            sealed = self._table.seal(secret, value)
            await self._table.update(secret, sealed)
            self._keep(secret, sealed)
        self._changed(secret, "secret.updated")
        return secret

    async def delete(self, reference: str) -> None:
        """Forget a secret and its values. Raises ``SecretNotFound``."""
        async with self._changing:
            secret = self.get(reference)
            await self._table.delete(secret.secret_id)
            del self._kept[secret.secret_id], self._ids[secret.name]
        self._changed(secret, "secret.deleted")

    def get(self, reference: str) -> Secret:
        """A secret by id or name. Raises ``SecretNotFound``."""
        return self._find(reference).secret

    def page(self, limit: int, token: str | None) -> tuple[list[Secret], str | None]:
        """Secrets, oldest first, and the token of the next page. Raises ``InvalidInput`` for a token that no page has
        returned."""
        secrets = (kept.secret for kept in self._kept.values())
        return paging.page(secrets, _place, token=token, limit=limit, newest_first=False)

    def resolve(self, text: str) -> str:
        """See :class:`cube.model.secrets.SecretResolver`."""
        return fill(text, self._value)

    def on_change(self, callback: Callable[[str], None]) -> None:
        """See :class:`cube.model.secrets.SecretResolver`."""
        self._callbacks.append(callback)

    def _value(self, name: str) -> str:
        kept = self._find(name)
        return self._table.open(kept.secret, kept.sealed)

    def _find(self, reference: str) -> _Kept:
        kept = self._kept.get(self._ids.get(reference.lower(), reference))
        if kept is None:
            raise SecretNotFound(reference[:_LONGEST_ECHO])
        return kept

    def _keep(self, secret: Secret, sealed: bytes) -> None:
        self._kept[secret.secret_id] = _Kept(secret, sealed)
        self._ids[secret.name] = secret.secret_id

    def _changed(self, secret: Secret, event: str) -> None:
        log.info(event, secret=secret.secret_id, version=secret.version)
        for callback in self._callbacks:
            callback(secret.name)


def _place(secret: Secret) -> paging.Place:
    return paging.place(secret.created_at, secret.secret_id)
