"""Filtering and paging of sandboxes: pure, over whatever collection it is given.

A page ends at a sandbox, and its token names that sandbox's place in the order (start time and id), not a count: what
begins or ends between two pages neither repeats nor hides any other.
"""

from __future__ import annotations

import base64
import binascii
import heapq
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cube.master.sandboxes.lifecycle import visible_state
from cube.master.sandboxes.requests import ListQuery, Page
from cube.model.errors import InvalidInput
from cube.model.ids import is_sandbox_id
from cube.model.sandbox import Sandbox

Place = tuple[int, str]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: No honest token is longer.
_LONGEST_TOKEN = 128


def select(sandboxes: Iterable[Sandbox], query: ListQuery) -> Page:
    """The page of ``query``; raises ``InvalidInput`` when its token is none of ours."""
    matching: Iterable[Sandbox] = (sandbox for sandbox in sandboxes if _matches(sandbox, query))
    if query.next_token is not None:
        matching = _beyond(matching, _decode(query.next_token), newest_first=query.newest_first)
    first = heapq.nlargest if query.newest_first else heapq.nsmallest
    found = first(query.limit + 1, matching, key=_place)
    page = found[: query.limit]
    return Page(page, _encode(_place(page[-1])) if len(found) > query.limit else None)


def _matches(sandbox: Sandbox, query: ListQuery) -> bool:
    return (
        visible_state(sandbox.state) in query.states
        and query.metadata.items() <= sandbox.metadata.items()
        and query.template in (None, sandbox.template_id, sandbox.template_name)
        and (query.started_after is None or sandbox.started_at >= query.started_after)
    )


def _beyond(sandboxes: Iterable[Sandbox], place: Place, *, newest_first: bool) -> Iterable[Sandbox]:
    if newest_first:
        return (sandbox for sandbox in sandboxes if _place(sandbox) < place)
    return (sandbox for sandbox in sandboxes if _place(sandbox) > place)


def _place(sandbox: Sandbox) -> Place:
    return (sandbox.started_at - _EPOCH) // _MICROSECOND, sandbox.sandbox_id


def _encode(place: Place) -> str:
    return base64.urlsafe_b64encode(f"{place[0]}.{place[1]}".encode()).decode().rstrip("=")


def _decode(token: str) -> Place:
    try:
        text = base64.urlsafe_b64decode(token[:_LONGEST_TOKEN] + "=" * (-len(token) % 4)).decode("ascii")
        started, _, sandbox_id = text.partition(".")
        place = int(started), sandbox_id
    except (ValueError, binascii.Error):
        place = 0, ""
    if not is_sandbox_id(place[1]):
        raise InvalidInput("nextToken must be the `x-next-token` of the page before", field="nextToken")
    return place
