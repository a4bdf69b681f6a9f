"""The seam between the master and a node: what the master may ask of the agent that runs sandboxes there.

``cube up`` calls the agent directly; in a cluster the same protocol stands in front of an RPC client.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from cube.cubelet.runtime.base import Capabilities
from cube.cubelet.volumes.content import VolumeContent
from cube.envd.sandboxes import EnvdSandbox
from cube.model.network import NetworkConfig
from cube.model.resources import ResourceUsage
from cube.model.sandbox import Condition, SandboxSpec
from cube.model.template import Template


@dataclass(frozen=True, slots=True)
class Recovered:
    """What of the things that should exist does."""

    #: Condition by sandbox id.
    sandboxes: dict[str, Condition]
    snapshots: set[str]


class NodeVolumes(Protocol):
    """The volumes of clients on one node. Which of them should exist is the master's business."""

    async def create(self, volume_id: str, quota_mb: int) -> None:
        """Make an empty volume that holds so many MiB. Raises ``Conflict`` when it exists, ``StorageFull``,
        ``HostError``."""
        ...

    async def remove(self, volume_id: str) -> None:
        """Break off what is read and written from outside of sandboxes, and remove a volume with everything in it;
        succeeds when there is none. Raises ``HostError``."""
        ...

    async def names(self) -> set[str]:
        """Ids of the volumes that are there."""
        ...

    async def usage(self, volume_id: str) -> int:
        """Bytes that a volume occupies. Raises ``VolumeNotFound``."""
        ...

    def content(self, volume_id: str) -> VolumeContent:
        """The files of a volume. Raises ``VolumeNotFound``."""
        ...


class NodeAgent(Protocol):
    """One node. The master never overlaps two calls for one sandbox, except that it may cancel a call and then destroy.

    Cancelling a call is always allowed; what it had begun is removed by the ``destroy`` that follows.
    """

    @property
    def runtime(self) -> str:
        """Name of the runtime that isolates the sandboxes, e.g. ``container``."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What that runtime can do on that machine."""
        ...

    @property
    def volumes(self) -> NodeVolumes:
        """The volumes of that node."""
        ...

    def offer(self, spec: SandboxSpec) -> str | None:
        """Id of a sandbox that was started ahead and is as ``spec`` wants it, whatever id, token and variables it has.

        ``create`` with this id hands that sandbox out, ``destroy`` ends it; one of the two must follow. ``None`` when
        there is none, and ``create`` starts one.
        """
        ...

    async def create(self, spec: SandboxSpec) -> None:
        """Start a sandbox, from ``spec.snapshot_id`` where it names one; returns when it answers.

        Raises ``LimitExceeded`` or ``Unavailable`` (the node is full or busy), ``StorageFull``, ``SnapshotNotFound``,
        ``HostError``.
        """
        ...

    async def begin(self, sandbox_id: str) -> None:
        """Run the start command of a new sandbox's template, and return once its ready command succeeds.

        Raises ``SandboxNotFound``, ``Unavailable`` when that fails or takes too long.
        """
        ...

    async def get(self, sandbox_id: str) -> EnvdSandbox:
        """The inside of a running sandbox. Raises ``SandboxNotFound``, ``SandboxNotRunning``."""
        ...

    async def destroy(self, sandbox_id: str) -> None:
        """End a sandbox and remove everything that belonged to it; succeeds when there is nothing."""
        ...

    async def pause(self, sandbox_id: str, *, memory: bool = True) -> None:
        """Stop a running sandbox where it stands, or (not ``memory``) end its processes and keep its files alone.

        Raises ``SandboxNotFound``, ``Unsupported``, ``HostError``, and then it runs on; ``SandboxStopped`` when it
        does not.
        """
        ...

    async def resume(self, sandbox_id: str, *, memory: bool = True) -> None:
        """Let a paused or stopped sandbox run again; returns when it answers.

        Without ``memory``, and where none was kept, its processes start from the beginning. Raises like :meth:`pause`;
        it stays as it was, or (``SandboxStopped``) only its files are left.
        """
        ...

    async def snapshot(self, sandbox_id: str, snapshot_id: str, *, memory: bool) -> None:
        """Capture a running, paused or stopped sandbox, which is afterwards as before.

        Raises ``SandboxNotFound``, ``Unsupported``, ``StorageFull``, ``HostError``; then there is no snapshot.
        """
        ...

    async def rollback(self, sandbox_id: str, snapshot_id: str) -> None:
        """Replace what a running sandbox is by what a snapshot holds that was taken over the same template; returns
        when it answers. Its connections and processes end.

        Raises ``SandboxNotFound``, ``SnapshotNotFound``, ``StorageFull``, ``HostError``, and then it runs on,
        unchanged; ``SandboxStopped`` when it was stopped over it, with the files of the snapshot.
        """
        ...

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; what came of it does not notice. Succeeds when there is none."""
        ...

    async def update_network(self, sandbox_id: str, network: NetworkConfig) -> None:
        """Replace what a sandbox may reach, at once and as a whole; connections that are not allowed any more end.

        One that has no processes now gets it when it is resumed. Raises ``SandboxNotFound``, ``HostError``, and then
        the old policy stays.
        """
        ...

    async def stats(self, sandbox_id: str) -> ResourceUsage:
        """What a sandbox uses now. Raises ``SandboxNotFound``, or ``SandboxNotRunning`` where a pause ends it."""
        ...

    async def recover(
        self, sandboxes: Sequence[tuple[SandboxSpec, Condition]], snapshots: Collection[str]
    ) -> Recovered:
        """Take over, after a restart, what an earlier run left, and remove every sandbox and snapshot not listed.

        Each sandbox is brought into its condition, whichever it was in when the earlier run stopped; see
        :meth:`cube.cubelet.runtime.base.Runtime.adopt`. Called once, before anything else.
        """
        ...

    def on_death(self, callback: Callable[[str], None]) -> None:
        """Have ``callback(sandbox_id)`` called on the event loop whenever a sandbox ends by itself.

        Only for sandboxes whose ``create`` has returned or that ``recover`` returned.
        """
        ...

    def templates(self) -> Sequence[Template]:
        """The templates that can be cloned on this node now."""
        ...
