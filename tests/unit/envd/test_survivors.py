"""What is kept of a process, and what a sandbox may have made of it."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.envd.guest import TerminalSize
from cube.envd.process.managed import ProcessSpec
from cube.envd.process.survivors import NOTE_LIMIT, note, read

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_SPECS = st.builds(
    ProcessSpec,
    cmd=_TEXT,
    args=st.lists(_TEXT, max_size=4).map(tuple),
    envs=st.lists(st.tuples(_TEXT, _TEXT), max_size=4).map(tuple),
    cwd=st.none() | _TEXT,
    tag=st.none() | _TEXT,
    stdin=st.booleans(),
    terminal=st.none() | st.builds(TerminalSize, st.integers(0, 65535), st.integers(0, 65535)),
)


@given(_SPECS)
def test_what_is_kept_is_read_back(spec: ProcessSpec) -> None:
    assert read(note(spec)) == spec


@pytest.mark.parametrize(
    ("spec", "left"),
    [
        (ProcessSpec("c", ("a",), (("E", "x" * 5000),), tag="t"), ProcessSpec("c", ("a",), tag="t")),
        (ProcessSpec("c", ("x" * 5000,), tag="t"), ProcessSpec("c", tag="t")),
        (ProcessSpec("x" * 5000, tag="t"), ProcessSpec("")),
    ],
)
def test_what_is_too_long_is_left_out(spec: ProcessSpec, left: ProcessSpec) -> None:
    assert len(note(spec)) <= NOTE_LIMIT
    assert read(note(spec)) == left


@given(
    st.binary(max_size=100)
    | st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | _TEXT, st.lists).map(orjson.dumps)
)
def test_nonsense_is_nobody(kept: bytes) -> None:
    assert read(kept) is None


@pytest.mark.parametrize(
    "change",
    [
        {"cmd": 1},
        {"args": [1]},
        {"args": 5},
        {"envs": [["a"]]},
        {"envs": [["a", 1]]},
        {"tag": []},
        {"terminal": [1]},
        {"terminal": [1, 70000]},
        {"terminal": [1, 2, 3]},
        {"terminal": "ab"},
    ],
)
def test_a_field_of_the_wrong_kind_makes_it_nobody(change: dict[str, object]) -> None:
    value = orjson.loads(note(ProcessSpec("c"))) | change
    assert read(orjson.dumps(value)) is None
