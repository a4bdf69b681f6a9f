"""Which value goes into which file for given resources; no file is touched here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from cube.model.resources import Resources

_MIB: Final = 1024 * 1024
#: Length of the window that the CPU quota is counted in, in microseconds.
_PERIOD: Final = 100_000

#: Where the old interface limits memory.
MEMORY_V1: Final = "memory.limit_in_bytes"
#: What is said here of a limit that is not set; the old interface itself says a number.
UNLIMITED: Final = "max"

#: Character devices (major:minor) that a sandbox may use, for the old interface's device controller: null, zero, full,
#: random, urandom, tty, ptmx and pseudo terminals. The new interface has no such files, it takes a BPF program; none is
#: loaded, because in a user namespace no device node can be made and file systems that have some are not mounted.
ALLOWED_DEVICES: Final = ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:2", "136:*")


@dataclass(frozen=True, slots=True)
class Limit:
    """One value for one file of one controller."""

    controller: str
    file: str
    value: str
    #: Kernels built or booted without swap accounting lack the file.
    optional: bool = False


def initial(controller: str, version: Literal[1, 2]) -> dict[str, str]:
    """What is in the files of a cgroup that has just been made, as far as it is known and need not be looked at."""
    table: dict[tuple[str, int], dict[str, str]] = {
        ("cpu", 1): {"cpu.cfs_period_us": str(_PERIOD)},
        ("memory", 1): {MEMORY_V1: UNLIMITED},
    }
    return table.get((controller, version), {})


@lru_cache(maxsize=64)
def limits(resources: Resources, controller: str, version: Literal[1, 2]) -> tuple[Limit, ...]:
    """The limits of one controller, in the order in which they must be written when nothing was limited before."""
    quota = resources.cpu_count * _PERIOD
    memory = str(resources.memory_mb * _MIB)
    table: dict[tuple[str, int], tuple[Limit, ...]] = {
        ("cpu", 1): (
            Limit("cpu", "cpu.cfs_period_us", str(_PERIOD)),
            Limit("cpu", "cpu.cfs_quota_us", str(quota)),
        ),
        ("cpu", 2): (Limit("cpu", "cpu.max", f"{quota} {_PERIOD}"),),
        ("memory", 1): (
            Limit("memory", MEMORY_V1, memory),
            Limit("memory", "memory.memsw.limit_in_bytes", memory, optional=True),
            Limit("memory", "memory.swappiness", "0", optional=True),
        ),
        ("memory", 2): (
            Limit("memory", "memory.max", memory),
            Limit("memory", "memory.swap.max", "0", optional=True),
            Limit("memory", "memory.oom.group", "0", optional=True),
        ),
        ("pids", 1): (Limit("pids", "pids.max", str(resources.pids)),),
        ("pids", 2): (Limit("pids", "pids.max", str(resources.pids)),),
    }
    return table.get((controller, version), ())
