from __future__ import annotations

from cube.cubelet.cgroups.limits import limits
from cube.model.resources import Resources

RESOURCES = Resources(cpu_count=2, memory_mb=512, pids=100)


def values(controller: str, version: int) -> dict[str, str]:
    assert version in (1, 2)
    return {limit.file: limit.value for limit in limits(RESOURCES, controller, 1 if version == 1 else 2)}


def test_cpu_quota_is_cores_times_period() -> None:
    assert values("cpu", 1) == {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "200000"}
    assert values("cpu", 2) == {"cpu.max": "200000 100000"}


def test_memory_leaves_no_way_into_swap() -> None:
    half_gib = str(512 * 1024 * 1024)
    assert values("memory", 1) == {
        "memory.limit_in_bytes": half_gib,
        "memory.memsw.limit_in_bytes": half_gib,
        "memory.swappiness": "0",
    }
    assert values("memory", 2) == {"memory.max": half_gib, "memory.swap.max": "0", "memory.oom.group": "0"}


def test_processes() -> None:
    assert values("pids", 1) == values("pids", 2) == {"pids.max": "100"}


def test_what_has_no_limit() -> None:
    assert limits(RESOURCES, "devices", 1) == ()
