"""Which sandboxes a listing has: pure, over whatever collection it is given."""

from __future__ import annotations

from collections.abc import Iterable

from cube.master import paging
from cube.master.sandboxes.lifecycle import visible_state
from cube.master.sandboxes.requests import ListQuery, Page
from cube.model.sandbox import Sandbox


def select(sandboxes: Iterable[Sandbox], query: ListQuery) -> Page:
    """The page of ``query``; raises ``InvalidInput`` when its token is none of ours."""
    matching = (sandbox for sandbox in sandboxes if _matches(sandbox, query))
    found, token = paging.page(
        matching, _place, token=query.next_token, limit=query.limit, newest_first=query.newest_first
    )
    return Page(found, token)


def _matches(sandbox: Sandbox, query: ListQuery) -> bool:
    return (
        visible_state(sandbox.state) in query.states
        and query.metadata.items() <= sandbox.metadata.items()
        and query.template in (None, sandbox.template_id, sandbox.template_name)
        and (query.started_after is None or sandbox.started_at >= query.started_after)
    )


def _place(sandbox: Sandbox) -> paging.Place:
    return paging.place(sandbox.started_at, sandbox.sandbox_id)
