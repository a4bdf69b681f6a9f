"""What the load generator says, and that it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cube.bench.egress.generator import _read, require
from cube.bench.load import RoundFailed
from cube.bench.targets import EGRESS_TARGETS

OUTPUT = """
finished in 500.00ms, 8.00 req/s, 1.00KB/s
requests: 4 total, 4 started, 4 done, 4 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 4 2xx, 0 3xx, 0 4xx, 0 5xx
"""


def test_the_rate_and_each_request_are_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("1\t200\t1500\n2\t200\t2500\n")

    found = _read(OUTPUT, 4, log)

    assert found.per_second == 8.0
    assert found.durations == [0.0015, 0.0025]


@pytest.mark.parametrize("output", ["", OUTPUT.replace("4 2xx, 0 3xx, 0 4xx", "3 2xx, 0 3xx, 1 4xx")])
def test_a_request_that_is_not_answered_well_is_an_error(output: str) -> None:
    with pytest.raises(RoundFailed):
        _read(output, 4, None)


def test_without_the_load_generator_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(FileNotFoundError, match="nghttp2-client"):
        require()


def test_what_was_not_measured_does_not_hold() -> None:
    assert not any(target.holds({}) for target in EGRESS_TARGETS)
