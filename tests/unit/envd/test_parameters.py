from __future__ import annotations

import pytest
from hypothesis import given, strategies

from cube.envd.files.parameters import header_parameters
from cube.model.errors import InvalidInput


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("multipart/form-data; boundary=abc", ("multipart/form-data", {"boundary": "abc"})),
        ('Form-Data; Name="file"; FileName="/a b.txt"', ("form-data", {"name": "file", "filename": "/a b.txt"})),
        ("text/plain", ("text/plain", {})),
        ("text/plain;", ("text/plain", {})),
        ("", ("", {})),
        (r'x; filename="a\"b\\c"', ("x", {"filename": r'a"b\c'})),
        (r'x; filename="C:\dir\file"', ("x", {"filename": r"C:\dir\file"})),
        ('x; filename="a;b=c"', ("x", {"filename": "a;b=c"})),
        ("x; filename=a; filename=b", ("x", {"filename": "a"})),
        ("x; filename=plain; filename*=UTF-8''gr%C3%BCn", ("x", {"filename": "grün"})),
        ("x; filename=plain; filename*=latin1''gr%FCn", ("x", {"filename": "plain"})),
        ('x; filename="%22"', ("x", {"filename": "%22"})),
        ("x; a=1;", ("x", {"a": "1"})),
    ],
)
def test_values(value: str, expected: tuple[str, dict[str, str]]) -> None:
    assert header_parameters(value) == expected


@pytest.mark.parametrize("value", ['x; a="open', "x; novalue", 'x; a="b"c', "x; =v", "x; f*=UTF-8''%FF"])
def test_malformed(value: str) -> None:
    with pytest.raises(InvalidInput):
        header_parameters(value)


@given(strategies.text(max_size=100))
def test_any_text_is_read_or_refused(value: str) -> None:
    try:
        kind, parameters = header_parameters(value)
    except InvalidInput:
        return
    assert isinstance(kind, str)
    assert all(parameters)


def test_a_hostile_value_does_not_take_long() -> None:
    with pytest.raises(InvalidInput):
        header_parameters('x; a="' + "\\" * 100_000)
