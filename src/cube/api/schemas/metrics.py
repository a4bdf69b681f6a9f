"""What sandboxes use, as clients see it."""

from __future__ import annotations

from datetime import datetime

from cube.api.schemas.base import ResponseBody


class SandboxMetric(ResponseBody):
    """Use of a sandbox at one moment; sizes in bytes."""

    timestamp: datetime
    timestamp_unix: int
    cpu_count: int
    #: Share of its CPUs, 0 to 100.
    cpu_used_pct: float
    mem_used: int
    mem_total: int
    mem_cache: int
    disk_used: int
    disk_total: int


class SandboxesWithMetrics(ResponseBody):
    """The newest metric of each sandbox that exists and has one."""

    sandboxes: dict[str, SandboxMetric]
