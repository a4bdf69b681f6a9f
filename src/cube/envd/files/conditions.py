"""Conditional and range requests (RFC 9110, 13 and 14) for one representation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

from cube.envd.asgi import Scope, header
from cube.envd.guest import Entry

_BILLION = 1_000_000_000
_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*")


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file, from ``start`` up to and without ``stop``."""

    start: int
    stop: int


class UnsatisfiableRange(Exception):
    """The range lies outside of the file."""


def etag(entry: Entry) -> str:
    """Strong validator of a file's content."""
    return f'"{entry.mtime_ns:x}-{entry.size:x}"'


def last_modified(entry: Entry) -> str:
    """``Last-Modified``, whole seconds."""
    return formatdate(entry.mtime_ns // _BILLION, usegmt=True)


def not_modified(scope: Scope, entry: Entry) -> bool:
    """Whether the client's copy is current."""
    if tags := header(scope, b"if-none-match"):
        return tags.strip() == "*" or etag(entry) in [tag.strip().removeprefix("W/") for tag in tags.split(",")]
    since = _seconds(header(scope, b"if-modified-since"))
    return since is not None and entry.mtime_ns // _BILLION <= since


def requested_range(scope: Scope, entry: Entry) -> Span | None:
    """The single range that is asked for and still valid, ``None`` for the whole file.

    Several ranges are answered with the whole file, as the RFC allows. Raises :class:`UnsatisfiableRange`.
    """
    match = _RANGE.fullmatch(header(scope, b"range").strip())
    if match is None or match.groups() == ("", "") or not _if_range_holds(scope, entry):
        return None
    first, last = match.groups()
    if not first:
        span = Span(max(0, entry.size - int(last)), entry.size)
    else:
        span = Span(int(first), min(entry.size, int(last) + 1) if last else entry.size)
        if last and int(last) < int(first):
            return None
    if span.start >= span.stop:
        raise UnsatisfiableRange
    return span


def _if_range_holds(scope: Scope, entry: Entry) -> bool:
    condition = header(scope, b"if-range").strip()
    return not condition or condition in (etag(entry), last_modified(entry))


def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except (ValueError, OverflowError, TypeError):
        return None
