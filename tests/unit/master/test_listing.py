from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.master.sandboxes.lifecycle import VisibleState
from cube.master.sandboxes.listing import select
from cube.master.sandboxes.requests import ListQuery
from cube.model.errors import InvalidInput
from cube.model.sandbox import Sandbox, SandboxState
from support.sandboxes import NOON, make_sandbox


def started(seconds: int) -> Sandbox:
    return make_sandbox(started_at=NOON + timedelta(seconds=seconds))


def pages(sandboxes: list[Sandbox], query: ListQuery) -> list[list[str]]:
    found, token = list[list[str]](), query.next_token
    while True:
        page = select(sandboxes, replace(query, next_token=token))
        found.append([sandbox.sandbox_id for sandbox in page.sandboxes])
        token = page.next_token
        if token is None:
            return found


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 7), st.booleans())
def test_pages_hold_everything_once_in_order(seconds: list[int], limit: int, newest_first: bool) -> None:
    sandboxes = [started(second) for second in seconds]
    found = pages(sandboxes, ListQuery(limit=limit, newest_first=newest_first))
    ordered = sorted(sandboxes, key=lambda sandbox: (sandbox.started_at, sandbox.sandbox_id), reverse=newest_first)
    assert [sandbox_id for page in found for sandbox_id in page] == [sandbox.sandbox_id for sandbox in ordered]
    assert all(len(page) == limit for page in found[:-1])


def test_a_page_is_not_disturbed_by_what_begins_and_ends_meanwhile() -> None:
    sandboxes = [started(second) for second in range(6)]
    first = select(sandboxes, ListQuery(limit=3))
    changed = [*sandboxes[:3], sandboxes[4], started(99)]
    second = select(changed, ListQuery(limit=3, next_token=first.next_token))
    assert [s.sandbox_id for s in second.sandboxes] == [s.sandbox_id for s in reversed(sandboxes[:3])]


def test_by_default_what_runs_or_is_paused_is_listed() -> None:
    sandboxes = {state: make_sandbox(state=state) for state in SandboxState}
    listed = {sandbox.state for sandbox in select(sandboxes.values(), ListQuery()).sandboxes}
    assert listed == set(SandboxState) - {SandboxState.CREATING, SandboxState.KILLING, SandboxState.KILLED}


def test_all_filters_must_hold() -> None:
    wanted = make_sandbox(state=SandboxState.PAUSED, metadata={"user": "a", "job": "1"}, template_name="x")
    others = [
        replace(wanted, sandbox_id="i1", state=SandboxState.RUNNING),
        replace(wanted, sandbox_id="i2", metadata={"user": "a"}),
        replace(wanted, sandbox_id="i3", template_name="y"),
        replace(wanted, sandbox_id="i4", started_at=NOON - timedelta(microseconds=1)),
    ]
    query = ListQuery(
        states=frozenset({VisibleState.PAUSED}),
        metadata={"user": "a", "job": "1"},
        template="x",
        started_after=NOON,
    )
    assert select([*others, wanted], query).sandboxes == [wanted]


def test_templates_are_matched_by_id_too() -> None:
    sandbox = make_sandbox()
    assert select([sandbox], ListQuery(template=sandbox.template_id)).sandboxes == [sandbox]


@pytest.mark.parametrize("token", ["x", "!!", "é", "MTIz", "LmFi", "MS5BQg", "A" * 128, "MS4"])
def test_a_token_of_nobody_is_invalid(token: str) -> None:
    with pytest.raises(InvalidInput) as error:
        select([], ListQuery(next_token=token))
    assert error.value.field == "nextToken"
