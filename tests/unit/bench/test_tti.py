from __future__ import annotations

import pytest

from cube.bench.load import Samples
from cube.bench.tti import score


def test_the_best_time_gives_all_points_and_the_ceiling_none() -> None:
    assert score(Samples({"tti": [0.0] * 10}), 10) == 100.0
    assert score(Samples({"tti": [10.0, 11.0]}), 2) == 0.0


def test_what_failed_takes_its_share() -> None:
    assert score(Samples({"tti": [0.0] * 5}), 10) == 50.0
    assert score(Samples(), 10) == 0.0


def test_the_slow_tail_weighs_less_than_the_middle() -> None:
    times = [0.0] * 90 + [10.0] * 10
    assert score(Samples({"tti": times}), 100) == pytest.approx(60.0)
