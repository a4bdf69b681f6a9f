from __future__ import annotations

from pathlib import Path

import pytest

from cube.cubelet.memory import MemoryGauge
from support.fake_clock import FakeClock


class Proc:
    """A ``/proc`` with what a test writes into it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "pressure").mkdir()
        self.available(50)
        self.stalled(0.0)

    def available(self, percent: int) -> None:
        text = f"MemTotal:       1000000 kB\nMemFree:          10 kB\nMemAvailable:   {percent}0000 kB\n"
        (self.directory / "meminfo").write_text(text)

    def stalled(self, percent: float) -> None:
        text = f"some avg10={percent:.2f} avg60=0.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0 avg300=0 total=1\n"
        (self.directory / "pressure/memory").write_text(text)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def gauge(proc: Proc, clock: FakeClock) -> MemoryGauge:
    return MemoryGauge(10, proc=proc.directory, clock=clock.elapsed)


def test_plenty_is_not_short(gauge: MemoryGauge) -> None:
    assert not gauge.short


def test_less_than_the_reserve_is_short(gauge: MemoryGauge, proc: Proc) -> None:
    proc.available(9)
    assert gauge.short


def test_tasks_that_wait_for_memory_make_it_short(gauge: MemoryGauge, proc: Proc) -> None:
    proc.stalled(25.0)
    assert gauge.short


def test_an_answer_is_good_for_half_a_second(gauge: MemoryGauge, proc: Proc, clock: FakeClock) -> None:
    assert not gauge.short
    proc.available(1)
    clock.advance(0.4)
    assert not gauge.short
    clock.advance(0.2)
    assert gauge.short


def test_a_kernel_without_pressure_information_will_do(gauge: MemoryGauge, proc: Proc) -> None:
    (proc.directory / "pressure/memory").unlink()
    assert not gauge.short


def test_this_machine_can_be_read() -> None:
    assert not MemoryGauge(0).short or MemoryGauge(90).short
