"""Snapshots and forks as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict
from pydantic.config import JsonDict

from cube.api.schemas.base import ResponseBody
from cube.api.schemas.common import Error
from cube.api.schemas.sandboxes import ConnectedSandbox

_EXAMPLE: JsonDict = {
    "snapshotID": "snap-5d2c0b9a4be1d2867755aa0b",
    "names": ["my-snapshot:default"],
    "memory": False,
    "status": "ready",
    "originSandboxID": "i8q2m0v5x7c1k9d4f6h3z",
    "templateID": "tpl-3f0c9a4be1d2867755aa0b1c",
    "createdAt": "2026-01-01T12:00:00Z",
    "updatedAt": "2026-01-01T12:00:00Z",
    "cpuCount": 2,
    "memoryMB": 1024,
    "diskSizeMB": 5120,
    "runtime": "container",
    "metadata": {},
}


class SnapshotInfo(ResponseBody):
    """A snapshot that sandboxes can be created from."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    snapshot_id: str
    #: With their tags; empty when it was given none.
    names: list[str]
    #: Whether memory and processes are in it, or the files alone.
    memory: bool
    #: One that is listed is whole.
    status: Literal["ready"] = "ready"
    origin_sandbox_id: str
    #: The template that it lies over.
    template_id: str
    created_at: datetime
    updated_at: datetime
    cpu_count: int
    memory_mb: int
    disk_size_mb: int
    runtime: str
    metadata: dict[str, str]


class RolledBack(ResponseBody):
    """A sandbox that is what a snapshot holds."""

    sandbox_id: str
    snapshot_id: str
    operation_id: str
    status: Literal["success"] = "success"


class ForkResult(ResponseBody):
    """What became of one fork: exactly one of the two is there."""

    sandbox: ConnectedSandbox | None = None
    error: Error | None = None
