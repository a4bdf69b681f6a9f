from __future__ import annotations

from cube.envd.process.throttle import MINIMUM_COST, RATE, Throttle


def test_a_single_read_need_not_wait_long() -> None:
    assert Throttle().spend(64 * 1024, now=100.0) == 0.0


def test_the_rate_is_kept_over_time() -> None:
    throttle, now, count = Throttle(), 100.0, 0
    while now < 101.0:
        now += throttle.spend(64 * 1024, now)
        count += 64 * 1024
    assert count <= RATE * 1.1


def test_small_reads_cost_more_than_their_bytes() -> None:
    throttle, now, reads = Throttle(), 100.0, 0
    while now < 101.0:
        now += throttle.spend(1, now)
        reads += 1
    assert reads <= RATE / MINIMUM_COST * 1.1
