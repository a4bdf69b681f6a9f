from __future__ import annotations

from datetime import timedelta

from cube.master.sandboxes.usage import UsageHistory
from cube.model.resources import Resources, ResourceUsage
from support.sandboxes import NOON


def usage(cpu_seconds: float) -> ResourceUsage:
    return ResourceUsage(cpu_seconds, memory_bytes=1, memory_cache_bytes=1, disk_bytes=1, pids=1)


def after(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def test_cpu_use_is_the_share_of_all_cpus_since_the_sample_before() -> None:
    history = UsageHistory(NOON, Resources(cpu_count=2))
    history.add(NOON + after(10), usage(5))
    history.add(NOON + after(20), usage(25))
    history.add(NOON + after(30), usage(25))
    assert [sample.cpu_used_pct for sample in history.between(None, None)] == [25.0, 100.0, 0.0]


def test_cpu_use_stays_in_range_when_clocks_disagree() -> None:
    history = UsageHistory(NOON, Resources(cpu_count=1))
    history.add(NOON, usage(3))
    history.add(NOON + after(1), usage(9))
    history.add(NOON + after(2), usage(1))
    assert [sample.cpu_used_pct for sample in history.between(None, None)] == [0.0, 100.0, 0.0]


def test_a_span_includes_both_ends() -> None:
    history = UsageHistory(NOON, Resources())
    for second in range(5):
        history.add(NOON + after(second), usage(0))
    assert [sample.at for sample in history.between(NOON + after(1), NOON + after(3))] == [
        NOON + after(second) for second in (1, 2, 3)
    ]


def test_samples_are_fresh_for_a_moment_and_bounded_in_number() -> None:
    history = UsageHistory(NOON, Resources())
    assert not history.is_fresh(NOON)
    for second in range(1000):
        history.add(NOON + after(second), usage(0))
    assert history.is_fresh(NOON + after(999.5))
    assert not history.is_fresh(NOON + after(1000))
    assert len(history.between(None, None)) < 200
