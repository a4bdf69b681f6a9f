"""What exists now, in memory: the read path of every request."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cube.master.sandboxes.lifecycle import end_after
from cube.master.sandboxes.requests import CreateSandbox
from cube.master.sandboxes.usage import UsageHistory
from cube.master.store.records import SandboxRecord
from cube.model.errors import SandboxNotFound
from cube.model.ids import new_sandbox_id, new_token
from cube.model.mounts import HostMount, VolumeMount, below, check_targets
from cube.model.network import merged
from cube.model.sandbox import Ingress, Sandbox, SandboxSpec, SandboxState
from cube.model.snapshot import Snapshot
from cube.model.template import Template

#: Ended sandboxes remembered; beyond, the longest ended are unknown again.
REMEMBERED = 100_000
#: Unknown ids are repeated to the client, but not at any length.
_LONGEST_ECHO = 64


class Entry:
    """A sandbox that has not ended, and what is being done with it."""

    __slots__ = ("caller", "ending", "failed_pauses", "operation", "ran", "sandbox", "spec", "usage")

    def __init__(self, sandbox: Sandbox, spec: SandboxSpec, caller: str = "") -> None:
        self.sandbox = sandbox
        self.spec = spec
        #: Whom its start is counted to; nothing else depends on it, and a restart forgets it.
        self.caller = caller
        #: Whether it has ever been up.
        self.ran = sandbox.state is not SandboxState.CREATING
        self.usage = UsageHistory(sandbox.started_at, sandbox.resources)
        #: The operation lock: whoever holds it works on this sandbox.
        self.operation: asyncio.Task[Any] | None = None
        #: Set once it is decided that the sandbox shall end; nothing else may begin then.
        self.ending: asyncio.Task[None] | None = None
        #: How often it could not be paused when its time was up.
        self.failed_pauses = 0

    def renamed(self, sandbox_id: str) -> Entry:
        """The same under another id, before anything is done with it."""
        sandbox, spec = replace(self.sandbox, sandbox_id=sandbox_id), replace(self.spec, sandbox_id=sandbox_id)
        return Entry(sandbox, spec, self.caller)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a sandbox is to be created from: a template, and what was captured over it, if anything was."""

    template: Template
    snapshot: Snapshot | None = None
    #: Id of the template that clients have built, whose files the snapshot holds.
    built: str | None = None

    @property
    def id(self) -> str:
        """What clients know it by."""
        if self.built is not None:
            return self.built
        return self.template.template_id if self.snapshot is None else self.snapshot.snapshot_id


def new_entry(
    request: CreateSandbox, origin: Origin, volumes: tuple[VolumeMount, ...], *, runtime: str, now: datetime
) -> Entry:
    """A sandbox that is to be created, with an id and a token of its own.

    From a snapshot it gets resources, environment and mounts of the sandbox that was captured; what the request says
    goes before.

    The token is always there: E2B's clients send it by themselves, and without it everyone who reaches the proxy could
    use the sandbox. Raises ``InvalidInput`` when what may be reached does not fit what the template says of it.
    """
    snapshot = origin.snapshot
    sandbox = Sandbox(
        sandbox_id=new_sandbox_id(),
        template_id=origin.id,
        template_name=request.template if request.template != origin.id else None,
        state=SandboxState.CREATING,
        started_at=now,
        end_at=end_after(now, request.timeout),
        on_timeout=request.on_timeout,
        auto_resume=request.auto_resume,
        resources=origin.template.resources if snapshot is None else snapshot.resources,
        metadata=request.metadata,
        env_vars=request.env_vars if snapshot is None else snapshot.env_vars | request.env_vars,
        envd_access_token=new_token(),
        runtime=runtime,
        ingress=Ingress(None if request.public_traffic else new_token(), request.mask_request_host),
        host_mounts=request.host_mounts
        if snapshot is None
        else _joined(snapshot.host_mounts, request.host_mounts, volumes),
        volume_mounts=volumes,
        network=merged(origin.template.network, request.network),
        snapshot_id=None if snapshot is None else snapshot.snapshot_id,
        auto_pause_mode=request.auto_pause_mode,
    )
    return Entry(sandbox, SandboxRecord(sandbox, origin.template).spec)


def _joined(
    before: tuple[HostMount, ...], asked_for: tuple[HostMount, ...], volumes: tuple[VolumeMount, ...]
) -> tuple[HostMount, ...]:
    """The mounts of a snapshot, but those that would meet one that is asked for. Raises ``InvalidInput`` when they are
    too many together."""
    if not before:
        return asked_for
    targets = [*(mount.mount_path for mount in asked_for), *(mount.mount_path for mount in volumes)]
    kept = tuple(
        mount
        for mount in before
        if not any(below(mount.mount_path, path) or below(path, mount.mount_path) for path in targets)
    )
    check_targets([*targets, *(mount.mount_path for mount in kept)], field="volumeMounts")
    return (*kept, *asked_for)


class Registry:
    """Sandboxes by id: those that have not ended, and the ids of those that have."""

    def __init__(self) -> None:
        self._live: dict[str, Entry] = {}
        self._ended: OrderedDict[str, datetime] = OrderedDict()

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._live.values())

    def add(self, entry: Entry) -> Entry:
        """Take in a sandbox."""
        self._live[entry.sandbox.sandbox_id] = entry
        return entry

    def find(self, sandbox_id: str) -> Entry | None:
        """The sandbox, also while it is ending."""
        return self._live.get(sandbox_id)

    def get(self, sandbox_id: str) -> Entry:
        """The sandbox; raises ``SandboxNotFound`` when it does not exist or is ending."""
        entry = self._live.get(sandbox_id)
        if entry is None or entry.ending is not None:
            raise SandboxNotFound(sandbox_id[:_LONGEST_ECHO])
        return entry

    def sandboxes(self) -> Iterable[Sandbox]:
        """All that exist and are not ending."""
        return (entry.sandbox for entry in self._live.values() if entry.ending is None)

    def having(self, volume_id: str) -> list[str]:
        """Ids of those that have a volume; those that are ending have it to their end."""
        return [
            entry.sandbox.sandbox_id
            for entry in self
            if any(mount.volume_id == volume_id for mount in entry.sandbox.volume_mounts)
        ]

    def end(self, sandbox_id: str, ended_at: datetime) -> None:
        """Drop a sandbox, and remember its id."""
        self._live.pop(sandbox_id, None)
        self._ended[sandbox_id] = ended_at
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def knows(self, sandbox_id: str) -> bool:
        """Whether it exists or is remembered as ended."""
        return sandbox_id in self._live or sandbox_id in self._ended

    def forget(self, before: datetime) -> None:
        """Forget the ids of sandboxes that ended before that moment."""
        while self._ended and next(iter(self._ended.values())) < before:
            self._ended.popitem(last=False)

    def work(self) -> Collection[asyncio.Task[Any]]:
        """Operations and endings that are under way."""
        tasks = (task for entry in self for task in (entry.operation, entry.ending))
        return [task for task in tasks if task is not None and not task.done()]
