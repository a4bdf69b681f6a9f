"""The records of volumes. Every call hands its work to the writer thread and returns a future."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection, delete, insert, select, update

from cube.master.store.secretbox import SecretBox
from cube.master.store.tables import volumes
from cube.master.store.writer import Writer
from cube.model.volumes import Volume, VolumeState


class VolumeTable:
    """The table ``volumes``. Futures fail with ``StorageFull`` or ``HostError``; a result means: committed."""

    def __init__(self, writer: Writer, box: SecretBox) -> None:
        self._writer = writer
        self._box = box

    def token(self, volume_id: str) -> str:
        """What opens the content of a volume: made of its id by a key, so that it is nowhere written down."""
        return self._box.digest(b"volume", volume_id.encode())

    def all(self) -> asyncio.Future[Sequence[Volume]]:
        """All of them, oldest first."""
        return self._writer.submit(_read)

    def insert(self, volume: Volume) -> asyncio.Future[None]:
        """Record a new volume."""
        return self._writer.submit(partial(_insert, volume))

    def set_state(self, volume_id: str, state: VolumeState) -> asyncio.Future[None]:
        """Record what is being done with a volume."""
        return self._writer.submit(partial(_set_state, volume_id, state))

    def delete(self, volume_id: str) -> asyncio.Future[None]:
        """Forget a volume."""
        return self._writer.submit(partial(_delete, volume_id))


def _read(connection: Connection) -> Sequence[Volume]:
    rows = connection.execute(select(volumes).order_by(volumes.c.created_at, volumes.c.volume_id))
    return [Volume(row.volume_id, row.name, row.quota_mb, row.created_at, VolumeState(row.state)) for row in rows]


def _insert(volume: Volume, connection: Connection) -> None:
    row = {
        "volume_id": volume.volume_id,
        "name": volume.name,
        "state": volume.state.value,
        "quota_mb": volume.quota_mb,
        "created_at": volume.created_at,
    }
    connection.execute(insert(volumes), row)


def _set_state(volume_id: str, state: VolumeState, connection: Connection) -> None:
    connection.execute(update(volumes).where(volumes.c.volume_id == volume_id).values(state=state.value))


def _delete(volume_id: str, connection: Connection) -> None:
    connection.execute(delete(volumes).where(volumes.c.volume_id == volume_id))
