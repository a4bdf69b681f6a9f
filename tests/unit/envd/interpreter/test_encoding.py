"""JSON of displayed values, and the parts of the kernel programs that need no image."""

from __future__ import annotations

import datetime
import json
import os
from typing import Any

import pytest

from cube.envd.interpreter.kernels.bash_host import export, restore
from cube.envd.interpreter.kernels.encoding import drop_biggest, to_json
from cube.envd.interpreter.kernels.environment import temporary_environment


class Array:
    def tolist(self) -> list[float]:
        return [1.0, float("nan")]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"a": [1, None, True]}, {"a": [1, None, True]}),
        ([float("nan"), float("inf"), 1.5], [None, None, 1.5]),
        ({"x": Array()}, {"x": [1.0, None]}),
        ((1, 2), [1, 2]),
        (b"ab", "YWI="),
        (datetime.date(2024, 5, 6), "2024-05-06"),
        ({1: 2}, {"1": 2}),
    ],
)
def test_values_that_have_json(value: Any, plain: Any) -> None:
    assert json.loads(to_json(value) or "") == plain


def test_values_that_have_none() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for value in (object(), {(1, 2): 3}, loop, [object(), float("nan")]):
        assert to_json(value) is None


def test_biggest_go_first() -> None:
    encoded = {"small": "1", "big": "2" * 100, "bigger": "3" * 200}
    assert drop_biggest(encoded, 101) == ["bigger"]
    assert drop_biggest(encoded, 0) == ["big", "small"]
    assert encoded == {}


def test_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBE_TEST_KEPT", "old")
    monkeypatch.delenv("CUBE_TEST_NEW", raising=False)
    with temporary_environment({"CUBE_TEST_KEPT": "new", "CUBE_TEST_NEW": "x"}):
        assert os.environ["CUBE_TEST_KEPT"] == "new"
        del os.environ["CUBE_TEST_NEW"]
    assert os.environ["CUBE_TEST_KEPT"] == "old"
    assert "CUBE_TEST_NEW" not in os.environ


def test_bash_values_are_quoted() -> None:
    assert "'a'\"'\"'; rm -rf /'" in export({"A": "a'; rm -rf /"})
    assert restore({}) == export({}) == ""
