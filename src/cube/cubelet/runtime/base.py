"""The seam between the cubelet and whatever isolates a sandbox.

A container and a microVM both fit behind :class:`Runtime`. What one of them cannot do it says in its
:class:`Capabilities`, and the call raises ``Unsupported``; nothing else asks which runtime it is talking to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from cube.envd.guest import Guest
from cube.model.resources import ResourceUsage
from cube.model.sandbox import Condition, SandboxSpec


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a runtime can honestly do on this machine."""

    #: ``container``: shares the host's kernel. ``vm``: a kernel of its own behind hardware virtualisation.
    #: ``emulated-vm``: a kernel of its own, emulated; not a security boundary by itself.
    isolation: str
    #: Pause keeps processes and their memory.
    pause: bool
    #: Pause frees the memory that the sandbox used.
    pause_frees_memory: bool
    #: A snapshot holds the files.
    filesystem_snapshot: bool
    #: A snapshot holds the memory and running processes too.
    memory_snapshot: bool
    #: Sandboxes can mount volumes.
    volumes: bool = False


@dataclass(frozen=True, slots=True)
class LocalGuest:
    """The envd of this node serves the sandbox through a control channel."""

    guest: Guest


@dataclass(frozen=True, slots=True)
class RemoteEnvd:
    """An envd of its own runs inside; HTTP goes to this unix socket on the host."""

    socket: Path


EnvdEndpoint = LocalGuest | RemoteEnvd


class Instance(Protocol):
    """One running or paused sandbox of a runtime."""

    @property
    def sandbox_id(self) -> str:
        """Its id."""
        ...

    @property
    def address(self) -> str:
        """Address of the sandbox on its link, for the proxy."""
        ...

    @property
    def envd(self) -> EnvdEndpoint:
        """Where its envd is."""
        ...

    async def died(self) -> None:
        """Return when the sandbox has ended by itself (its first process is gone)."""
        ...


@runtime_checkable
class Inheriting(Protocol):
    """An instance whose processes may have begun before this service knew it: in memory that was copied, or under an
    earlier run of the service."""

    @property
    def inherited(self) -> Mapping[str, Any] | None:
        """The contexts of its interpreter, as :mod:`cube.envd.interpreter.handover` describes them, empty where they
        are not known; ``None`` when all its processes have just begun."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """What a runtime has of a sandbox that an earlier run of the service left."""

    condition: Condition
    #: ``None`` where nothing runs: always when it is stopped, and where a pause ends what it ran in.
    instance: Instance | None


class Runtime(Protocol):
    """Starts, stops and captures sandboxes. One per kind of isolation and node. Calls on one sandbox never overlap:
    the cubelet holds its operation lock. Cancelling a call leaves nothing behind that :meth:`destroy`,
    :meth:`delete_snapshot` or the next start does not remove."""

    name: str
    capabilities: Capabilities

    async def start(self) -> None:
        """Make ready: helpers, pools, mounts."""
        ...

    async def close(self) -> None:
        """Let go of everything but the running sandboxes; a later start finds them again."""
        ...

    async def remove(self) -> None:
        """End every sandbox and remove everything of this instance from the machine but the templates and snapshots;
        works after a crash too, and without :meth:`start`."""
        ...

    async def create(self, spec: SandboxSpec, *, ahead: bool = False) -> Instance:
        """Start a sandbox from its template, or from ``spec.snapshot_id``; returns when its inside answers.

        One that is started ``ahead`` is nobody's until :meth:`hand_out`, and keeps nobody from removing its template.

        From a snapshot it gets an identity of its own all the same: host name, machine id, address, tokens, and where
        memory comes back, random numbers and time. Raises ``SnapshotNotFound``, ``TemplateNotFound``, ``StorageFull``.
        """
        ...

    async def hand_out(self, instance: Instance) -> None:
        """One that was started ahead is a client's from now on. Raises ``TemplateNotFound`` when its template was
        removed meanwhile; then it must be destroyed."""
        ...

    async def adopt(self, spec: SandboxSpec, wanted: Condition) -> Found:
        """Take over a sandbox that an earlier run of the service left, and bring it into the condition ``wanted``.

        One whose processes were ended on purpose, by a pause, resume or rollback that was cut off, is found
        ``STOPPED`` whatever was wanted. Raises ``SandboxNotFound`` when it is gone.
        """
        ...

    async def pause(self, instance: Instance, *, memory: bool) -> Instance | None:
        """Stop a sandbox where it stands, or (not ``memory``) end its processes and keep its files alone.

        Returns what is left of it that can die; ``None`` when nothing runs any more. It runs on when this fails with
        anything but ``SandboxStopped``.
        """
        ...

    async def resume(self, spec: SandboxSpec, instance: Instance | None, *, memory: bool) -> Instance:
        """Let a paused or stopped sandbox run again; returns when its inside answers.

        ``instance`` is what :meth:`pause` or :meth:`adopt` has left. Without ``memory``, and where none was kept, its
        processes start from the beginning. Raises ``SandboxStopped`` when only its files are left.
        """
        ...

    async def snapshot(
        self,
        spec: SandboxSpec,
        instance: Instance | None,
        snapshot_id: str,
        *,
        memory: bool,
        contexts: Mapping[str, Any] | None = None,
    ) -> None:
        """Capture a running, paused or stopped sandbox, which afterwards is as it was before.

        ``memory`` is only asked for where the capability is there and the sandbox has processes. What is there when
        this returns outlives a crash of the machine. ``contexts`` are kept beside memory, for who starts from it (see
        :class:`Inheriting`). Raises ``StorageFull``.
        """
        ...

    async def rollback(self, spec: SandboxSpec, instance: Instance, snapshot_id: str) -> None:
        """Replace what a running sandbox is by what a snapshot of the same template holds; :meth:`resume` then starts
        it, with the snapshot's memory where it has it.

        It runs on, unchanged, when this fails with anything but ``SandboxStopped``. Raises ``SnapshotNotFound``.
        """
        ...

    async def snapshots(self) -> set[str]:
        """Ids of all snapshots that are whole; what an earlier run left half made is removed by :meth:`start`."""
        ...

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; sandboxes and snapshots that came of it do not notice. Succeeds when there is none."""
        ...

    async def destroy(self, sandbox_id: str) -> None:
        """End it and remove everything that belonged to it, known or left over; succeeds when there is nothing."""
        ...

    async def stats(self, instance: Instance) -> ResourceUsage: ...

    async def leftovers(self) -> set[str]:
        """Ids of sandboxes of which something exists on this machine, whether recorded or not."""
        ...
