"""What can be asked about snapshots.

A snapshot is made on the node first and recorded then; it is forgotten first and removed from the node then. So what is
recorded is there and whole, and what a crash leaves on the node without a record is removed by the next start. Nothing
on the node depends on a snapshot once it was used, so there is nothing to count and nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from cube.master.sandboxes.context import Context
from cube.master.sandboxes.operations import Operations, exclusively
from cube.master.sandboxes.registry import Entry
from cube.master.snapshots.shelf import Shelf, SnapshotPage, SnapshotQuery
from cube.master.store.snapshots import SnapshotStore
from cube.model.errors import (
    Conflict,
    CubeError,
    InvalidInput,
    LimitExceeded,
    Unsupported,
)
from cube.model.ids import TEMPLATE_REF, new_snapshot_id
from cube.model.sandbox import PauseMode, Sandbox, SandboxState
from cube.model.snapshot import SNAPSHOT_ID, Snapshot, full_name

log = structlog.get_logger(__name__)

_MALFORMED = "name must be like `my-snapshot`, `my-snapshot:v2` or `team/my-snapshot`, in lower case"


class SnapshotService:
    """Snapshots of one node. All methods are for the event loop that it was made on.

    Besides what each method names, all raise ``StorageFull`` or ``HostError`` when the store or the node fails.
    """

    def __init__(
        self,
        context: Context,
        store: SnapshotStore,
        operations: Operations,
        template_named: Callable[[str], str | None],
        *,
        most: int,
    ) -> None:
        """At most ``most`` snapshots are kept; ``template_named`` gives the id of the template that has a name."""
        self._context = context
        self._store = store
        self._operations = operations
        self._template_named = template_named
        self._most = most
        self._shelf = Shelf()

    async def recorded(self) -> set[str]:
        """Ids of those that should exist; the first call of all."""
        for snapshot in await self._store.all():
            self._shelf.put(snapshot)
        return self._shelf.ids()

    async def keep_only(self, present: set[str]) -> None:
        """Forget what is recorded and not there any more."""
        for snapshot in await self._store.all():
            if snapshot.snapshot_id not in present:
                log.error("snapshot.lost", snapshot=snapshot.snapshot_id, name=snapshot.name)
                self._shelf.take(snapshot.snapshot_id)
                await self._store.delete(snapshot.snapshot_id)

    # -- looking -------------------------------------------------------------------------------------------------

    def find(self, reference: str) -> Snapshot | None:
        """The snapshot with this id, ``name:tag``, or name."""
        return self._shelf.find(reference)

    def page(self, query: SnapshotQuery) -> SnapshotPage:
        """Snapshots, newest first. Raises ``InvalidInput`` for a token that no page has returned."""
        return self._shelf.page(query)

    # -- making and deleting -------------------------------------------------------------------------------------

    async def take(self, sandbox_id: str, name: str | None = None, *, memory: bool | None = None) -> Snapshot:
        """Capture a running or paused sandbox, which goes on as before.

        A name that another snapshot has goes to this one, and the other one is deleted. Memory is captured unless
        ``memory`` is false, where the runtime can and there is some.

        Raises ``SandboxNotFound``, ``InvalidInput`` (the name), ``Conflict`` (busy, or the name is a template's),
        ``Unsupported``, ``LimitExceeded``.
        """
        name = None if name is None else self._checked(name)
        entry = self.capturable(sandbox_id)
        if len(self._shelf) >= self._most:
            raise LimitExceeded(f"there are {self._most} snapshots: delete some", retry_after=60)
        snapshot = self._describe(entry, name, memory=self.captures_memory(entry.sandbox, memory))
        await exclusively(entry, self._take(entry, snapshot))
        self._context.logs.note(sandbox_id, "Snapshot taken", snapshotID=snapshot.snapshot_id)
        log.info("snapshot.taken", snapshot=snapshot.snapshot_id, sandbox=sandbox_id)
        return snapshot

    async def delete(self, reference: str) -> Snapshot:
        """Delete a snapshot; sandboxes that were started from it go on. Raises ``SnapshotNotFound``."""
        snapshot = self._shelf.get(reference)
        self._shelf.take(snapshot.snapshot_id)
        try:
            await self._store.delete(snapshot.snapshot_id)
        except CubeError:
            self._shelf.put(snapshot)
            raise
        await self._context.node.delete_snapshot(snapshot.snapshot_id)
        log.info("snapshot.deleted", snapshot=snapshot.snapshot_id)
        return snapshot

    async def rollback(self, sandbox_id: str, reference: str) -> Snapshot:
        """Make a running sandbox what a snapshot holds, under the same id, with the same tokens and deadline.

        Its processes and connections end. Raises ``SandboxNotFound``, ``SnapshotNotFound``, ``InvalidInput`` (a
        snapshot of another template), ``Conflict`` (not running, or busy), and ``SandboxStopped`` when it could not be
        started again: it is paused then, with the files of the snapshot.
        """
        entry = self._context.registry.get(sandbox_id)
        snapshot = self._shelf.get(reference)
        _require_fitting(entry, snapshot)
        if entry.sandbox.state is not SandboxState.RUNNING:
            raise Conflict(f"sandbox {sandbox_id!r} is {entry.sandbox.state.value}, not running: connect to it first")
        await exclusively(entry, self._operations.rollback(entry, snapshot.snapshot_id))
        self._context.logs.note(sandbox_id, "Rolled back", snapshotID=snapshot.snapshot_id)
        return snapshot

    # -- for forks -----------------------------------------------------------------------------------------------

    def capturable(self, sandbox_id: str) -> Entry:
        """A sandbox that can be captured now; raises ``SandboxNotFound``, ``Conflict``, ``Unsupported``."""
        node = self._context.node
        if not node.capabilities.filesystem_snapshot:
            raise Unsupported(f"the runtime {node.runtime!r} cannot capture sandboxes")
        entry = self._context.registry.get(sandbox_id)
        if entry.sandbox.state not in (SandboxState.RUNNING, SandboxState.PAUSED):
            raise Conflict(f"sandbox {sandbox_id!r} is {entry.sandbox.state.value}: try again when it runs")
        return entry

    def captures_memory(self, sandbox: Sandbox, wanted: bool | None = None) -> bool:
        """Whether memory will be captured: when it is wanted, or nothing is said, and there is some to be had."""
        there = sandbox.pause_mode is not PauseMode.FILESYSTEM
        return wanted is not False and there and self._context.node.capabilities.memory_snapshot

    # -- inside --------------------------------------------------------------------------------------------------

    def _checked(self, name: str) -> str:
        if TEMPLATE_REF.fullmatch(name) is None or SNAPSHOT_ID.fullmatch(name.partition(":")[0]) is not None:
            raise InvalidInput(_MALFORMED, field="name")
        template_id = self._template_named(name)
        if template_id is not None:
            raise Conflict(f"{name!r} is the name of template {template_id}: choose another name")
        return full_name(name)

    def _describe(self, entry: Entry, name: str | None, *, memory: bool) -> Snapshot:
        sandbox = entry.sandbox
        return Snapshot(
            snapshot_id=new_snapshot_id(),
            name=name,
            origin_sandbox_id=sandbox.sandbox_id,
            template=entry.spec.template,
            created_at=self._context.clock.now(),
            runtime=sandbox.runtime,
            memory=memory,
            resources=sandbox.resources,
            metadata=sandbox.metadata,
            env_vars=sandbox.env_vars,
            host_mounts=sandbox.host_mounts,
        )

    async def _take(self, entry: Entry, snapshot: Snapshot) -> None:
        node = self._context.node
        await node.snapshot(entry.sandbox.sandbox_id, snapshot.snapshot_id, memory=snapshot.memory)
        try:
            await self._store.insert(snapshot)
        except BaseException:  # also when the sandbox is ended now: its client will not learn the id
            self._context.background.start(self._discard(snapshot.snapshot_id), f"discard-{snapshot.snapshot_id}")
            raise
        replaced = self._shelf.put(snapshot)
        if replaced is not None:
            self._context.background.start(
                self._remove_from_node(replaced.snapshot_id), f"replace-{replaced.snapshot_id}"
            )

    async def _discard(self, snapshot_id: str) -> None:
        """Remove a snapshot of which nobody was told. Its record may still be on the way: this comes after it."""
        try:
            await self._store.delete(snapshot_id)
        finally:
            await self._remove_from_node(snapshot_id)

    async def _remove_from_node(self, snapshot_id: str) -> None:
        """Remove what is recorded no more; what cannot be removed now is by the next start."""
        try:
            await self._context.node.delete_snapshot(snapshot_id)
        except CubeError as error:
            log.warning("snapshot.not_removed", snapshot=snapshot_id, reason=error.message)


def _require_fitting(entry: Entry, snapshot: Snapshot) -> None:
    template = entry.spec.template.template_id
    if snapshot.runtime != entry.sandbox.runtime:
        raise InvalidInput(f"snapshotID names a snapshot of the runtime {snapshot.runtime!r}", field="snapshotID")
    if snapshot.template.template_id != template:
        raise InvalidInput(
            f"snapshotID names a snapshot over template {snapshot.template.template_id}, "
            f"this sandbox lies over {template}: create a sandbox from it instead",
            field="snapshotID",
        )
