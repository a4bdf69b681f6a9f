from __future__ import annotations

import pytest

from cube.envd.guest import ExitStatus
from cube.envd.process.events import data_event, end_event, start_event, status_text
from cube.envd.process.output import Channel


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (ExitStatus(0), "exit status 0"),
        (ExitStatus(3), "exit status 3"),
        (ExitStatus(None, 1), "signal: hangup"),
        (ExitStatus(None, 9), "signal: killed"),
        (ExitStatus(None, 11), "signal: segmentation fault"),
        (ExitStatus(None, 15), "signal: terminated"),
        (ExitStatus(None, 31), "signal: signal 31"),
    ],
)
def test_status_reads_as_go_prints_it(status: ExitStatus, text: str) -> None:
    assert status_text(status) == text


def test_success_has_no_error() -> None:
    assert end_event(ExitStatus(0)).to_json() == '{"end":{"exited":true,"status":"exit status 0"}}'


def test_failure_has_one() -> None:
    expected = '{"end":{"exitCode":3,"exited":true,"status":"exit status 3","error":"exit status 3"}}'
    assert end_event(ExitStatus(3)).to_json() == expected


def test_a_signal_is_exit_code_minus_one() -> None:
    expected = '{"end":{"exitCode":-1,"status":"signal: killed","error":"signal: killed"}}'
    assert end_event(ExitStatus(None, 9)).to_json() == expected


def test_start_and_data() -> None:
    assert start_event(7).to_json() == '{"start":{"pid":7}}'
    assert data_event(Channel.STDERR, b"hi\n").to_json() == '{"data":{"stderr":"aGkK"}}'
    assert data_event(Channel.TERMINAL, b"\xff").to_json() == '{"data":{"pty":"/w=="}}'
