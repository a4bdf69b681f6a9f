"""Snapshots: what was captured of a sandbox, to start others from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from cube.model.mounts import HostMount
from cube.model.resources import Resources
from cube.model.template import Template

#: ``snap-`` and 24 hexadecimal digits; no template id looks like this.
SNAPSHOT_ID = re.compile(r"snap-[0-9a-f]{24}")
#: The tag that a name without one means.
DEFAULT_TAG = "default"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot as recorded by the master. It never changes, apart from its name going to a newer one."""

    snapshot_id: str
    #: ``name:tag``, with the tag always there; ``None`` when it was given no name.
    name: str | None
    #: The sandbox that was captured, which may have ended since.
    origin_sandbox_id: str
    #: What the captured files lie over, as it was then.
    template: Template
    created_at: datetime
    #: Name of the runtime that made it; no other can start it.
    runtime: str
    #: Whether memory and processes are in it, or files alone.
    memory: bool
    #: What sandboxes that are started from it get.
    resources: Resources
    metadata: dict[str, str]
    env_vars: dict[str, str] = field(repr=False)
    #: What was mounted; the files there belong to the host and are not in it.
    host_mounts: tuple[HostMount, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names that it can be called by, as E2B lists them."""
        return [] if self.name is None else [self.name]


def full_name(name: str) -> str:
    """A name with its tag: ``name`` means ``name:default``."""
    return name if ":" in name else f"{name}:{DEFAULT_TAG}"
