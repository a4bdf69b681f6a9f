"""Sandboxes as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict

from cube.api.schemas.base import ResponseBody
from cube.api.schemas.network import SandboxNetwork
from cube.master.sandboxes.lifecycle import VisibleState
from cube.model.sandbox import PauseMode

_EXAMPLE = {
    "templateID": "tpl-3f0c9a4be1d2867755aa0b1c",
    "alias": "base",
    "sandboxID": "i8q2m0v5x7c1k9d4f6h3z",
    "clientID": "cube",
    "envdVersion": "0.6.13",
    "runtime": "container",
    "isolation": "container",
}
_TIMES = {"startedAt": "2026-01-01T12:00:00Z", "endAt": "2026-01-01T12:05:00Z"}
_SIZES = {"cpuCount": 2, "memoryMB": 1024, "diskSizeMB": 5120}


class _Identity(ResponseBody):
    template_id: str
    #: The name by which the template was asked for.
    alias: str | None = None
    sandbox_id: str
    #: The node, by the name of its instance.
    client_id: str
    envd_version: str
    #: Name of what isolates it, and the kind of isolation that this is.
    runtime: str
    isolation: str


class ConnectedSandbox(_Identity):
    """A sandbox and what is needed to use it: answer of create, connect and resume."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**_EXAMPLE, "envdAccessToken": "…", "domain": "localhost"}]}
    )

    envd_access_token: str | None = None
    #: What requests to its ports must carry in ``e2b-traffic-access-token``; left out when everybody may.
    traffic_access_token: str | None = None
    domain: str


class MountedVolume(ResponseBody):
    """A volume that a sandbox has."""

    name: str
    path: str
    #: Left out when the sandbox may change it.
    read_only: bool | None = None


class ListedSandbox(_Identity):
    """A sandbox in a listing."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**_EXAMPLE, **_TIMES, **_SIZES, "state": "running", "metadata": {}}]}
    )

    started_at: datetime
    end_at: datetime
    cpu_count: int
    memory_mb: int
    disk_size_mb: int
    metadata: dict[str, str]
    state: VisibleState
    #: Left out when there are none.
    volume_mounts: list[MountedVolume] | None = None


class SandboxLifecycle(ResponseBody):
    """What ends or wakes a sandbox."""

    auto_resume: bool
    on_timeout: Literal["kill", "pause"]


class SandboxDetail(ListedSandbox):
    """Everything about one sandbox."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_EXAMPLE,
                    **_TIMES,
                    **_SIZES,
                    "state": "running",
                    "metadata": {"user": "alice"},
                    "envdAccessToken": "…",
                    "domain": "localhost",
                    "lifecycle": {"autoResume": False, "onTimeout": "kill"},
                }
            ]
        }
    )

    envd_access_token: str | None = None
    domain: str
    #: Left out when nothing was said about it.
    allow_internet_access: bool | None = None
    #: Left out when nothing was asked for.
    network: SandboxNetwork | None = None
    #: What the pause has kept; left out while it runs.
    pause_mode: PauseMode | None = None
    lifecycle: SandboxLifecycle
