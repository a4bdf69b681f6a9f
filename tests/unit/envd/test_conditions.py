from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cube.envd.files.conditions import Span, UnsatisfiableRange, etag, last_modified, not_modified, requested_range
from support.entries import FILE

ENTRY = replace(FILE, size=100)


def scope(**headers: str) -> dict[str, Any]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


@pytest.mark.parametrize(
    ("value", "span"),
    [
        ("bytes=0-9", Span(0, 10)),
        ("bytes=90-", Span(90, 100)),
        ("bytes=90-1000", Span(90, 100)),
        ("bytes=-10", Span(90, 100)),
        ("bytes=-1000", Span(0, 100)),
        ("bytes=0-0", Span(0, 1)),
        ("", None),
        ("bytes=-", None),
        ("bytes=9-0", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_ranges(value: str, span: Span | None) -> None:
    assert requested_range(scope(range=value), ENTRY) == span


@pytest.mark.parametrize("value", ["bytes=100-", "bytes=-0", "bytes=100-200"])
def test_ranges_outside(value: str) -> None:
    with pytest.raises(UnsatisfiableRange):
        requested_range(scope(range=value), ENTRY)


def test_if_range() -> None:
    assert requested_range(scope(range="bytes=0-9", if_range=etag(ENTRY)), ENTRY) == Span(0, 10)
    assert requested_range(scope(range="bytes=0-9", if_range=last_modified(ENTRY)), ENTRY) == Span(0, 10)
    assert requested_range(scope(range="bytes=0-9", if_range='"other"'), ENTRY) is None


def test_not_modified() -> None:
    assert not_modified(scope(if_none_match=etag(ENTRY)), ENTRY)
    assert not_modified(scope(if_none_match=f'"a", W/{etag(ENTRY)}'), ENTRY)
    assert not_modified(scope(if_none_match="*"), ENTRY)
    assert not_modified(scope(if_modified_since=last_modified(ENTRY)), ENTRY)


def test_modified() -> None:
    assert not not_modified(scope(), ENTRY)
    assert not not_modified(scope(if_none_match='"a"'), ENTRY)
    assert not not_modified(scope(if_modified_since="Sat, 01 Jan 2000 00:00:00 GMT"), ENTRY)
    assert not not_modified(scope(if_modified_since="yesterday"), ENTRY)


def test_the_entity_tag_counts_before_the_date() -> None:
    assert not not_modified(scope(if_none_match='"a"', if_modified_since=last_modified(ENTRY)), ENTRY)
