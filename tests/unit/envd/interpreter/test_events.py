"""Everything a kernel may say, and much that it may not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.envd.interpreter.events import (
    MAX_REPRESENTATIONS,
    Done,
    Event,
    Failed,
    Fatal,
    Ready,
    Refused,
    Shown,
    Started,
    Text,
    decode,
)
from cube.envd.interpreter.kernels import channel


@pytest.mark.parametrize(
    ("value", "event"),
    [
        ({"type": "ready", "pid": 5}, Ready(5)),
        ({"type": "fatal", "message": "no"}, Fatal("no")),
        ({"type": "refused", "holder": 3, "message": "no"}, Refused(3, "no")),
        ({"type": "started", "id": 1, "count": 2}, Started(1, 2)),
        ({"type": "stdout", "text": "x"}, Text("stdout", "x")),
        ({"type": "stderr", "text": "x", "more": 1}, Text("stderr", "x")),
        ({"type": "result", "main": True, "data": {"a/b": [1]}}, Shown(True, {"a/b": [1]})),
        ({"type": "error", "name": "E", "value": "v", "traceback": "t"}, Failed("E", "v", "t")),
        ({"type": "done", "id": 1}, Done(1)),
    ],
)
def test_events(value: dict[str, Any], event: Event) -> None:
    assert decode(json.dumps(value).encode()) == event


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "ready",
        {},
        {"type": "unknown"},
        {"type": ["ready"], "pid": 1},
        {"type": "ready", "pid": -1},
        {"type": "ready", "pid": True},
        {"type": "ready", "pid": 2**60},
        {"type": "ready", "pid": 1.5},
        {"type": "stdout", "text": None},
        {"type": "result", "main": 1, "data": {}},
        {"type": "result", "main": True, "data": []},
        {"type": "result", "main": True, "data": {str(n): 1 for n in range(MAX_REPRESENTATIONS + 1)}},
        {"type": "error", "name": "E", "value": "v"},
        {"type": "done"},
        {"type": "refused", "holder": "1", "message": "m"},
    ],
)
def test_anything_else_is_dropped(value: object) -> None:
    assert decode(json.dumps(value).encode()) is None


@pytest.mark.parametrize(
    "line", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"type":"ready","pid":' + b"9" * 5000 + b"}"]
)
def test_what_is_not_json_is_dropped(line: bytes) -> None:
    assert decode(line) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_value_raises(value: object) -> None:
    decode(json.dumps(value).encode())
    decode(json.dumps({"type": "result", "main": True, "data": value}).encode())


def test_kernels_stay_below_the_limit() -> None:
    from cube.envd.interpreter.events import MAX_LINE

    assert channel.MAX_LINE < MAX_LINE
