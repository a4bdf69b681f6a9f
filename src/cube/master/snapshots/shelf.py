"""Which snapshots there are, in memory: by id and by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cube.master import paging
from cube.model.errors import SnapshotNotFound
from cube.model.snapshot import Snapshot, full_name

#: Unknown references are repeated to the client, but not at any length.
_LONGEST_ECHO = 64


@dataclass(frozen=True, slots=True)
class SnapshotQuery:
    """Which snapshots, from where on. All filters must hold."""

    #: The sandbox that was captured.
    sandbox_id: str | None = None
    #: Id, ``name:tag``, or a name, which every tag of it matches.
    name: str | None = None
    limit: int = 100
    #: ``SnapshotPage.next_token`` of the page before.
    next_token: str | None = None


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """A part of a listing, newest first; ``next_token`` leads to the next one, ``None`` at the end."""

    snapshots: list[Snapshot]
    next_token: str | None


class Shelf:
    """The snapshots that exist. A name stands for one of them."""

    def __init__(self) -> None:
        self._by_id: dict[str, Snapshot] = {}
        self._by_name: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def ids(self) -> set[str]:
        """Ids of all."""
        return set(self._by_id)

    def put(self, snapshot: Snapshot) -> Snapshot | None:
        """Take one in; returns the one that had its name, which is gone by that."""
        replaced = None
        if snapshot.name is not None:
            replaced = self.take(self._by_name.get(snapshot.name, ""))
            self._by_name[snapshot.name] = snapshot.snapshot_id
        self._by_id[snapshot.snapshot_id] = snapshot
        return replaced

    def take(self, snapshot_id: str) -> Snapshot | None:
        """Take one out."""
        snapshot = self._by_id.pop(snapshot_id, None)
        if snapshot is not None and snapshot.name is not None:
            del self._by_name[snapshot.name]
        return snapshot

    def find(self, reference: str) -> Snapshot | None:
        """The one with this id, ``name:tag``, or name (which means its tag ``default``)."""
        return self._by_id.get(self._by_name.get(full_name(reference), reference))

    def get(self, reference: str) -> Snapshot:
        """Like :meth:`find`; raises ``SnapshotNotFound``."""
        snapshot = self.find(reference)
        if snapshot is None:
            raise SnapshotNotFound(reference[:_LONGEST_ECHO])
        return snapshot

    def page(self, query: SnapshotQuery) -> SnapshotPage:
        """A page of them; raises ``InvalidInput`` when its token is none of ours."""
        matching: Iterable[Snapshot] = (snapshot for snapshot in self._by_id.values() if _matches(snapshot, query))
        found, token = paging.page(matching, _place, token=query.next_token, limit=query.limit, newest_first=True)
        return SnapshotPage(found, token)


def _matches(snapshot: Snapshot, query: SnapshotQuery) -> bool:
    if query.sandbox_id not in (None, snapshot.origin_sandbox_id):
        return False
    if query.name is None or query.name in (snapshot.snapshot_id, snapshot.name):
        return True
    return snapshot.name is not None and snapshot.name.rpartition(":")[0] == query.name


def _place(snapshot: Snapshot) -> paging.Place:
    return paging.place(snapshot.created_at, snapshot.snapshot_id)
