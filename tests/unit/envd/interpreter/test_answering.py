from __future__ import annotations

import json
from typing import Any

import pytest

from cube.envd.interpreter.kernels.answering import AnsweringDriver, require
from cube.envd.interpreter.kernels.supervisor import ChildEnded


class FakeChild:
    """A program whose lines are written down; it ends behind the last of them."""

    def __init__(self, lines: list[object]) -> None:
        self._lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        self.sent: list[dict[str, Any]] = []
        self.closed = False

    def send(self, data: bytes) -> None:
        self.sent.append(json.loads(data))

    def read_line(self) -> bytes:
        if not self._lines:
            raise ChildEnded(3)
        return self._lines.pop(0)

    def close(self) -> None:
        self.closed = True


class FakeResults:
    def __init__(self) -> None:
        self.sent: list[tuple[object, bool]] = []

    def send(self, bundle: object, *, main: bool) -> None:
        self.sent.append((bundle, main))


def driver(*programs: list[object]) -> tuple[AnsweringDriver, FakeResults, list[FakeChild]]:
    children = [FakeChild(lines) for lines in programs]
    waiting = iter(children)

    def start() -> Any:
        return next(waiting)

    made = AnsweringDriver(
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        "test",
        start,
        lambda request: json.dumps(request).encode(),
        lambda: "new seeds",
    )
    made._results = results = FakeResults()  # type: ignore[assignment]
    return made, results, children


def cell(number: int) -> dict[str, Any]:
    return {"op": "execute", "id": number, "code": "x", "env": {}}


def test_what_is_no_answer_is_passed_over() -> None:
    forged: list[object] = [
        b"\xff",
        b"[]",
        b"{",
        {"type": "done"},
        {"type": "done", "id": 6},
        {"type": "result", "data": 7},
    ]
    forged += [{"type": []}, {"type": "picture", "path": "/does/not/exist"}, {"type": "picture", "path": 1}]
    made, results, _ = driver([*forged, {"type": "result", "main": True, "data": {"a": 1}}, {"type": "done", "id": 7}])
    assert made.run(cell(7)) is None
    assert results.sent == [({"a": 1}, True)]


def test_errors() -> None:
    made, _, _ = driver([{"type": "error", "name": "N", "value": 1, "traceback": "t"}, {"type": "done", "id": 1}])
    assert made.run(cell(1)) == ("N", "1", "t")


def test_a_program_that_has_ended_is_started_again() -> None:
    made, _, children = driver([], [{"type": "done", "id": 2}])
    failure = made.run(cell(1))
    assert failure is not None
    assert failure[:2] == ("ProcessExit", "3")
    assert children[0].closed
    assert made.run(cell(2)) is None


def test_what_is_set_between_cells_stays_and_has_no_number() -> None:
    made, _, children = driver([{"type": "done", "id": 0}] * 2)
    made.set_environment({"A": "b"})
    made.reseed()
    first, second = children[0].sent
    assert (first["op"], first["id"], first["env"], first["variables"]) == ("environment", 0, {"A": "b"}, {"A": "b"})
    assert (second["op"], second["id"], second["code"]) == ("reseed", 0, "new seeds")


def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(OSError, match="the image has no no-such-program: add the Debian package some-package"):
        require("no-such-program", "some-package")
