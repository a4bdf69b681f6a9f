"""What is asked of the sandbox service, as values that have been checked for form by whoever makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cube.master.sandboxes.lifecycle import VisibleState
from cube.master.volumes.service import WantedMount
from cube.model.mounts import HostMount
from cube.model.network import NetworkConfig
from cube.model.sandbox import OnTimeout, PauseMode, Sandbox


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    """A sandbox that somebody wants, from a template or a snapshot. ``timeout`` is in seconds from its first answer."""

    template: str
    timeout: int
    on_timeout: OnTimeout = OnTimeout.KILL
    auto_resume: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    env_vars: dict[str, str] = field(default_factory=dict, repr=False)
    #: Whether everybody may reach its ports, or only who has its traffic access token.
    public_traffic: bool = True
    #: See :class:`cube.model.sandbox.Ingress`.
    mask_request_host: str | None = None
    host_mounts: tuple[HostMount, ...] = ()
    #: Names or addresses of the nodes that it may run on; empty for any.
    nodes: tuple[str, ...] = ()
    volume_mounts: tuple[WantedMount, ...] = ()
    #: What it may reach, beside what its template says; ``None`` when nothing was said.
    network: NetworkConfig | None = field(default=None, repr=False)
    #: What a pause by the timeout keeps.
    auto_pause_mode: PauseMode = PauseMode.FULL


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What a caller puts on a create so that it can be sent again without creating a second sandbox."""

    value: str
    #: Whose key it is: two callers that choose the same value do not meet.
    caller: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which sandboxes, in which order, from where on. All filters must hold."""

    states: frozenset[VisibleState] = frozenset(VisibleState)
    metadata: dict[str, str] = field(default_factory=dict)
    #: Id or name of the template.
    template: str | None = None
    #: Inclusive.
    started_after: datetime | None = None
    newest_first: bool = True
    limit: int = 100
    #: ``Page.next_token`` of the page before.
    next_token: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing; ``next_token`` leads to the next one, ``None`` at the end."""

    sandboxes: list[Sandbox]
    next_token: str | None


@dataclass(frozen=True, slots=True)
class Connected:
    """What a connect found: ``resumed`` when the sandbox had been paused."""

    sandbox: Sandbox
    resumed: bool
