"""The seam between the cubelet and whatever isolates a sandbox.

A container and a microVM both fit behind :class:`Runtime`. What one of them cannot do it says in its
:class:`Capabilities`, and the call raises ``Unsupported``; nothing else asks which runtime it is talking to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cube.envd.guest import Guest
from cube.model.resources import ResourceUsage
from cube.model.sandbox import SandboxSpec


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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A capture of a sandbox on this node."""

    snapshot_id: str
    directory: Path
    has_memory: bool


class Runtime(Protocol):
    """Starts, stops and captures sandboxes. One per kind of isolation and node. Calls on one sandbox never overlap:
    the cubelet holds its operation lock. Cancelling a call leaves nothing behind."""

    name: str
    capabilities: Capabilities

    async def start(self) -> None:
        """Make ready: helpers, pools, mounts."""
        ...

    async def close(self) -> None:
        """Let go of everything but the running sandboxes; a later start finds them again."""
        ...

    async def remove(self) -> None:
        """End every sandbox and remove everything of this instance from the machine but the templates; works after a
        crash too, and without :meth:`start`."""
        ...

    async def create(self, spec: SandboxSpec) -> Instance:
        """Start a sandbox from its template; returns when its inside answers."""
        ...

    async def restore(self, spec: SandboxSpec, snapshot: Snapshot) -> Instance:
        """Start a sandbox from a snapshot; raises ``Unsupported`` without the capability."""
        ...

    async def adopt(self, spec: SandboxSpec, *, paused: bool) -> Instance:
        """Take over a sandbox that an earlier run of the service started; raises ``SandboxNotFound`` when it is
        gone."""
        ...

    async def pause(self, instance: Instance) -> None: ...

    async def resume(self, instance: Instance) -> None: ...

    async def snapshot(self, instance: Instance, snapshot_id: str) -> Snapshot: ...

    async def destroy(self, sandbox_id: str) -> None:
        """End it and remove everything that belonged to it, known or left over; succeeds when there is nothing."""
        ...

    async def stats(self, instance: Instance) -> ResourceUsage: ...

    async def leftovers(self) -> set[str]:
        """Ids of sandboxes of which something exists on this machine, whether recorded or not."""
        ...
