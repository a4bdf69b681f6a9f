"""Pages of what has a time and an id, in that order: pure, over whatever collection it is given.

A page ends at one of the things, and its token names that one's place in the order, not a count: what begins or ends
between two pages neither repeats nor hides any other.
"""

from __future__ import annotations

import base64
import binascii
import heapq
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from cube.model.errors import InvalidInput

T = TypeVar("T")
#: Microseconds since 1970, and an id.
Place = tuple[int, str]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ID = re.compile(r"[a-z0-9_-]{1,64}")
#: No honest token is longer.
_LONGEST_TOKEN = 128


def place(moment: datetime, name: str) -> Place:
    """Where something is in the order."""
    return (moment - _EPOCH) // _MICROSECOND, name


def page(
    things: Iterable[T], place_of: Callable[[T], Place], *, token: str | None, limit: int, newest_first: bool
) -> tuple[list[T], str | None]:
    """At most ``limit`` of the things, from where ``token`` says on, and the token of the next page if there is one.

    Raises ``InvalidInput`` when the token is none of ours.
    """
    if token is not None:
        last = _decode(token)
        things = (thing for thing in things if (place_of(thing) < last if newest_first else place_of(thing) > last))
    first = heapq.nlargest if newest_first else heapq.nsmallest
    found = first(limit + 1, things, key=place_of)
    return found[:limit], _encode(place_of(found[limit - 1])) if len(found) > limit else None


def _encode(last: Place) -> str:
    return base64.urlsafe_b64encode(f"{last[0]}.{last[1]}".encode()).decode().rstrip("=")


def _decode(token: str) -> Place:
    try:
        text = base64.urlsafe_b64decode(token[:_LONGEST_TOKEN] + "=" * (-len(token) % 4)).decode("ascii")
        moment, _, name = text.partition(".")
        last = int(moment), name
    except (ValueError, binascii.Error):
        last = 0, ""
    if _ID.fullmatch(last[1]) is None:
        raise InvalidInput("nextToken must be the `x-next-token` of the page before", field="nextToken")
    return last
