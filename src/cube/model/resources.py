"""How much of the machine a sandbox may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of one sandbox; every one of them is enforced by the kernel."""

    #: CPU time per second of wall time, in cores.
    cpu_count: int = 2
    #: Memory of all processes and of tmpfs files, in MiB; at the limit the OOM killer acts inside the sandbox.
    memory_mb: int = 1024
    #: Size of the writable layer, in MiB; more gives "disk quota exceeded".
    disk_mb: int = 5120
    #: Processes and threads at one time.
    pids: int = 2048
    #: Open files per process.
    open_files: int = 262144


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What a sandbox uses now, read from the kernel by the host."""

    cpu_seconds: float
    memory_bytes: int
    memory_cache_bytes: int
    disk_bytes: int
    pids: int
