from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.bench.summary import percentile, summarise

durations = st.lists(st.floats(min_value=0, max_value=1000, allow_nan=False), min_size=1, max_size=200)


def test_percentiles_are_measured_values_by_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (1, 50, 90, 95, 99, 100)] == [1, 50, 90, 95, 99, 100]
    assert percentile([7.0], 99) == 7.0
    assert percentile([1.0, 2.0], 50) == 1.0
    assert percentile([1.0, 2.0], 51) == 2.0


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@given(durations)
def test_a_summary_is_ordered_and_in_milliseconds(values: list[float]) -> None:
    summary = summarise(values)
    marks = [summary.min, summary.p50, summary.p90, summary.p95, summary.p99, summary.max]
    assert marks == sorted(marks)
    assert summary.count == len(values)
    assert summary.max == pytest.approx(max(values) * 1000)
    assert summary.avg == pytest.approx(statistics.fmean(values) * 1000)
    assert summary.p50 in [value * 1000 for value in values]
