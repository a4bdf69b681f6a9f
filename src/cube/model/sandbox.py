"""Sandboxes: what is asked for, what exists, and which states may follow each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from cube.model.mounts import HostMount, VolumeMount
from cube.model.network import NetworkConfig
from cube.model.resources import Resources
from cube.model.template import Template


class SandboxState(StrEnum):
    """Life of a sandbox. E2B clients see ``running`` and ``paused``; the others last for one operation."""

    CREATING = "creating"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    ROLLING_BACK = "rolling back"
    KILLING = "killing"
    #: Gone. Kept in the records so that a client's late request is told so.
    KILLED = "killed"


#: Which state may follow which. Everything may be killed, at any time, twice too.
TRANSITIONS: dict[SandboxState, frozenset[SandboxState]] = {
    SandboxState.CREATING: frozenset({SandboxState.RUNNING, SandboxState.KILLING}),
    SandboxState.RUNNING: frozenset({SandboxState.PAUSING, SandboxState.ROLLING_BACK, SandboxState.KILLING}),
    SandboxState.ROLLING_BACK: frozenset({SandboxState.RUNNING, SandboxState.PAUSED, SandboxState.KILLING}),
    SandboxState.PAUSING: frozenset({SandboxState.PAUSED, SandboxState.RUNNING, SandboxState.KILLING}),
    SandboxState.PAUSED: frozenset({SandboxState.RESUMING, SandboxState.KILLING}),
    SandboxState.RESUMING: frozenset({SandboxState.RUNNING, SandboxState.PAUSED, SandboxState.KILLING}),
    SandboxState.KILLING: frozenset({SandboxState.KILLED}),
    SandboxState.KILLED: frozenset(),
}


class Condition(StrEnum):
    """What a node has of a sandbox."""

    RUNNING = "running"
    #: Its processes stand still and keep their memory, wherever that is.
    PAUSED = "paused"
    #: Its files alone: nothing runs, and when it is resumed its processes start from the beginning.
    STOPPED = "stopped"


class PauseMode(StrEnum):
    """What a pause keeps."""

    #: Files, memory and processes.
    FULL = "full"
    #: Files alone. Only an explicit request resumes such a sandbox, never traffic.
    FILESYSTEM = "filesystem"


class OnTimeout(StrEnum):
    """What happens to a sandbox whose time is up."""

    KILL = "kill"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Ingress:
    """Who may reach the ports of a sandbox, and what it is called there."""

    #: Must be in ``e2b-traffic-access-token`` on every port but envd's; ``None`` lets everybody in.
    traffic_access_token: str | None = field(default=None, repr=False)
    #: Host header that its services see, ``${PORT}`` standing for the port; ``None`` leaves the client's.
    mask_request_host: str | None = None


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """Everything a node needs to start one sandbox. Decided by the master; the node does not reinterpret it."""

    sandbox_id: str
    template: Template
    resources: Resources
    env_vars: dict[str, str] = field(default_factory=dict)
    #: Token that envd requests must carry; ``None`` leaves envd open to everyone who reaches the proxy.
    envd_access_token: str | None = field(default=None, repr=False)
    host_mounts: tuple[HostMount, ...] = ()
    #: What it begins with, instead of the bare template: the files of this snapshot, and its memory and processes where
    #: it has them. Without a meaning once it has started.
    snapshot_id: str | None = None
    volume_mounts: tuple[VolumeMount, ...] = ()
    #: What it may reach. Can change while it runs.
    network: NetworkConfig = field(default_factory=NetworkConfig)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One sandbox as recorded by the master."""

    sandbox_id: str
    template_id: str
    #: The name the client asked for, when it was not the id.
    template_name: str | None
    state: SandboxState
    started_at: datetime
    #: When the timeout acts; always in the future for a running sandbox.
    end_at: datetime
    on_timeout: OnTimeout
    auto_resume: bool
    resources: Resources
    metadata: dict[str, str]
    env_vars: dict[str, str] = field(repr=False)
    envd_access_token: str | None = field(repr=False)
    #: Name of the runtime that isolates it, e.g. ``container``.
    runtime: str
    ingress: Ingress = field(default_factory=Ingress)
    host_mounts: tuple[HostMount, ...] = ()
    #: The snapshot that it was created from.
    snapshot_id: str | None = None
    #: What a pause keeps that the timeout brings about.
    auto_pause_mode: PauseMode = PauseMode.FULL
    #: What the last pause has kept; ``None`` while it runs.
    pause_mode: PauseMode | None = None
    volume_mounts: tuple[VolumeMount, ...] = ()
    #: What it may reach: what its template says and what was asked for, as one.
    network: NetworkConfig = field(default_factory=NetworkConfig)
