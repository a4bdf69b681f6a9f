"""What exists now, in memory: the read path of every request."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from cube.master.sandboxes.requests import CreateSandbox
from cube.master.sandboxes.usage import UsageHistory
from cube.master.store.records import SandboxRecord
from cube.model.errors import SandboxNotFound
from cube.model.ids import new_sandbox_id, new_token
from cube.model.mounts import VolumeMount
from cube.model.network import merged
from cube.model.sandbox import Ingress, Sandbox, SandboxSpec, SandboxState
from cube.model.template import Template

#: Ended sandboxes remembered; beyond, the longest ended are unknown again.
REMEMBERED = 100_000
#: Unknown ids are repeated to the client, but not at any length.
_LONGEST_ECHO = 64


class Entry:
    """A sandbox that has not ended, and what is being done with it."""

    __slots__ = ("ending", "failed_pauses", "operation", "ran", "sandbox", "spec", "usage")

    def __init__(self, sandbox: Sandbox, spec: SandboxSpec) -> None:
        self.sandbox = sandbox
        self.spec = spec
        #: Whether it has ever been up.
        self.ran = sandbox.state is not SandboxState.CREATING
        self.usage = UsageHistory(sandbox.started_at, sandbox.resources)
        #: The operation lock: whoever holds it works on this sandbox.
        self.operation: asyncio.Task[Any] | None = None
        #: Set once it is decided that the sandbox shall end; nothing else may begin then.
        self.ending: asyncio.Task[None] | None = None
        #: How often it could not be paused when its time was up.
        self.failed_pauses = 0


def new_entry(
    request: CreateSandbox, template: Template, volumes: tuple[VolumeMount, ...], *, runtime: str, now: datetime
) -> Entry:
    """A sandbox that is to be created, with an id and a token of its own.

    The token is always there: E2B's clients send it by themselves, and without it everyone who reaches the proxy could
    use the sandbox. Raises ``InvalidInput`` when what may be reached does not fit what the template says of it.
    """
    sandbox = Sandbox(
        sandbox_id=new_sandbox_id(),
        template_id=template.template_id,
        template_name=request.template if request.template != template.template_id else None,
        state=SandboxState.CREATING,
        started_at=now,
        end_at=now + timedelta(seconds=request.timeout),
        on_timeout=request.on_timeout,
        auto_resume=request.auto_resume,
        resources=template.resources,
        metadata=request.metadata,
        env_vars=request.env_vars,
        envd_access_token=new_token(),
        runtime=runtime,
        ingress=Ingress(None if request.public_traffic else new_token(), request.mask_request_host),
        host_mounts=request.host_mounts,
        volume_mounts=volumes,
        network=merged(template.network, request.network),
    )
    return Entry(sandbox, SandboxRecord(sandbox, template).spec)


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
