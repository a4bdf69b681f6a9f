"""The lines of a response, read back by the client's own parser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from e2b_code_interpreter.models import Execution, parse_output

from cube.envd.interpreter.events import Done, Event, Failed, Ready, Shown, Started, Text
from cube.envd.interpreter.lines import END, KEEPALIVE, line, representations, unquoted


def parsed(*events: Event) -> Execution:
    execution = Execution()
    for raw in (*map(line, events), KEEPALIVE, END):
        assert raw.endswith(b"\n")
        parse_output(execution, raw.decode())
    return execution


def test_client_reads_every_kind() -> None:
    execution = parsed(
        Started(1, 7),
        Text("stdout", "out\n"),
        Text("stderr", "err\n"),
        Shown(True, {"text/plain": "'x'", "text/html": "<b>", "application/json": {"a": 1}, "x/y": 1}),
        Failed("E", "v", "t"),
    )
    assert execution.execution_count == 7
    assert (execution.logs.stdout, execution.logs.stderr) == (["out\n"], ["err\n"])
    assert execution.text == "x"
    assert (execution.results[0].html, execution.results[0].json) == ("<b>", {"a": 1})
    assert execution.results[0].extra == {"x/y": 1}
    assert execution.error is not None
    assert (execution.error.name, execution.error.value, execution.error.traceback) == ("E", "v", "t")


def test_every_known_type_has_its_field() -> None:
    mimes = {
        "text/plain": "text",
        "text/html": "html",
        "text/markdown": "markdown",
        "image/svg+xml": "svg",
        "image/png": "png",
        "image/jpeg": "jpeg",
        "application/pdf": "pdf",
        "text/latex": "latex",
        "application/javascript": "javascript",
    }
    assert representations({mime: f"{field} x" for mime, field in mimes.items()}) == {
        field: f"{field} x" for field in mimes.values()
    }
    assert representations({"e2b/data": {"a": [1]}, "e2b/chart": {"type": "line"}}) == {
        "data": {"a": [1]},
        "chart": {"type": "line"},
    }


@pytest.mark.parametrize(
    "bundle", [{"text/plain": 5}, {"e2b/data": []}, {"e2b/chart": "x"}, {"application/json": None}]
)
def test_wrong_values_are_left_out(bundle: dict[str, Any]) -> None:
    assert representations(bundle) == {}


@pytest.mark.parametrize(
    ("text", "plain"),
    [("'a'", "a"), ('"a"', "a"), ("''a''", "'a'"), ("'a\"", "'a\""), ("'", "'"), ("''", ""), ("", ""), ("5", "5")],
)
def test_one_pair_of_quotes_goes(text: str, plain: str) -> None:
    assert unquoted(text) == plain


def test_internal_events_make_no_line() -> None:
    assert line(Done(1)) == line(Ready(1)) == b""


def test_timestamps_are_nanoseconds() -> None:
    assert json.loads(line(Text("stdout", "")))["timestamp"] > 10**18


def test_a_line_is_one_for_every_client() -> None:
    text = "a\x85b\u2028c\u2029d\x0b\x0c\x1c\n"
    encoded = line(Text("stdout", text))
    assert len(encoded.decode().splitlines()) == 1
    assert json.loads(encoded)["text"] == text
