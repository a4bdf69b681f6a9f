"""Reading the audit log, to its end and on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cube.egress.audit.log import AuditLog
from cube.egress.audit.reader import follow, of_sandbox


def record(number: int, sandbox: str = "box") -> dict[str, Any]:
    return {"number": number, "sandbox": {"policy_id": sandbox, "src_ip": "10.0.0.2"}}


class _Enough(Exception):
    pass


def followed(path: Path, steps: list[Any]) -> Iterator[int]:
    """The numbers that are read when at each pause the next step happens."""
    left = iter(steps)

    def pause() -> None:
        step = next(left, None)
        if step is None:
            raise _Enough
        step()

    try:
        yield from (one["number"] for one in follow(path, pause))
    except _Enough:
        return


def test_what_comes_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "log" / "access.jsonl"
    log = AuditLog(path)
    log.prepare()
    log.append([record(0)])

    assert list(followed(path, [lambda: log.append([record(1), record(2)]), lambda: log.append([record(3)])])) == [
        *range(4)
    ]


def test_a_log_that_does_not_exist_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"

    assert list(followed(path, [lambda: None, lambda: AuditLog(path).append([record(7)])])) == [7]


def test_nothing_is_lost_when_files_are_put_aside(tmp_path: Path) -> None:
    """Every record fills a file: several are put aside between two looks."""
    path = tmp_path / "access.jsonl"
    log = AuditLog(path, most_bytes=10)
    numbers = iter(range(100))

    def three() -> None:
        for _ in range(3):
            log.append([record(next(numbers))])

    three()
    assert list(followed(path, [three, three])) == [*range(9)]


def test_a_line_that_is_half_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"

    def write(text: str) -> None:
        with path.open("a") as file:
            file.write(text)

    write('{"number": 1, "sand')
    assert list(followed(path, [lambda: write('box": null}\n')])) == [1]


def test_one_sandboxes_records(tmp_path: Path) -> None:
    records = [record(1), record(2, "other"), {"number": 3, "sandbox": None}]

    assert [one["number"] for one in of_sandbox(records, "other")] == [2]
    assert [one["number"] for one in of_sandbox(records, "10.0.0.2")] == [1, 2]
    assert [one["number"] for one in of_sandbox(records, "")] == [1, 2, 3]
