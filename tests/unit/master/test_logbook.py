from __future__ import annotations

from datetime import timedelta

import pytest

from cube.master.sandboxes import logbook
from cube.master.sandboxes.logbook import LogBook, LogLevel, LogQuery
from cube.model.errors import SandboxNotFound
from support.fake_clock import FakeClock


def messages(book: LogBook, sandbox_id: str = "a", **query: object) -> list[str]:
    return [entry.message for entry in book.read(sandbox_id, LogQuery(**query))]  # type: ignore[arg-type]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def book(clock: FakeClock) -> LogBook:
    """Five entries of one sandbox, one second apart."""
    book = LogBook(clock)
    for number, level in enumerate((*LogLevel, LogLevel.INFO)):
        book.note("a", f"Message {number}", level, number=str(number))
        clock.advance(1)
    return book


def test_entries_come_in_order(book: LogBook) -> None:
    assert messages(book) == [f"Message {number}" for number in range(5)]
    assert book.read("a", LogQuery())[3].fields == {"number": "3"}


def test_backwards_the_newest_comes_first(book: LogBook) -> None:
    assert messages(book, backward=True, limit=2) == ["Message 4", "Message 3"]


def test_the_cursor_is_inclusive_both_ways(book: LogBook) -> None:
    cursor = book.read("a", LogQuery())[2].at
    assert messages(book, cursor=cursor) == ["Message 2", "Message 3", "Message 4"]
    assert messages(book, cursor=cursor, backward=True) == ["Message 2", "Message 1", "Message 0"]


def test_level_is_the_least_severe(book: LogBook) -> None:
    assert messages(book, level=LogLevel.WARN) == ["Message 2", "Message 3"]


@pytest.mark.parametrize(("search", "found"), [("MESSAGE 3", 1), ("message", 5), ("x", 0), ("", 5)])
def test_search(book: LogBook, search: str, found: int) -> None:
    assert len(messages(book, search=search)) == found


@pytest.mark.parametrize("limit", [0, 1, 5, 9])
def test_limit(book: LogBook, limit: int) -> None:
    assert len(messages(book, limit=limit)) == min(limit, 5)


def test_pages_by_milliseconds_neither_repeat_nor_skip(clock: FakeClock) -> None:
    book = LogBook(clock)
    for number in range(10):
        book.note("a", str(number))
    seen, cursor = [], None
    while page := book.read("a", LogQuery(cursor, limit=3)):
        seen += [entry.message for entry in page]
        cursor = page[-1].at + timedelta(milliseconds=1)
    assert seen == [str(number) for number in range(10)]


def test_a_log_keeps_the_newest_entries(clock: FakeClock) -> None:
    book = LogBook(clock)
    for number in range(1500):
        book.note("a", str(number))
    assert messages(book, limit=2000) == [str(number) for number in range(500, 1500)]


def test_a_log_is_bounded_in_size(clock: FakeClock) -> None:
    book = LogBook(clock)
    for _ in range(100):
        book.note("a", "x" * 10_000, field="y" * 1000)
    entries = book.read("a", LogQuery())
    assert {len(entry.message) for entry in entries} == {4096}
    assert 100 * 1024 < sum(len(entry.message) + 1005 for entry in entries) <= 128 * 1024


def test_logs_of_the_ended_are_kept_for_a_while(book: LogBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logbook, "_ENDED", 2)
    book.end("a")
    assert messages(book)[-1] == "Sandbox ended"
    for other in "bc":
        book.end(other)
    with pytest.raises(SandboxNotFound):
        book.read("a", LogQuery())


def test_an_unknown_sandbox_has_no_log(book: LogBook) -> None:
    with pytest.raises(SandboxNotFound):
        book.read("b", LogQuery())
