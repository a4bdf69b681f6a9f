from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest

from cube.master.sandboxes.lifecycle import RECOVERED, VisibleState, advance, visible_state
from cube.model.errors import Conflict
from cube.model.sandbox import TRANSITIONS, OnTimeout, SandboxState
from support.sandboxes import NOON, make_sandbox

PAIRS = list(product(SandboxState, SandboxState))


@pytest.mark.parametrize(("before", "after"), [pair for pair in PAIRS if pair[1] in TRANSITIONS[pair[0]]])
def test_allowed_steps_change_only_the_state(before: SandboxState, after: SandboxState) -> None:
    sandbox = make_sandbox(state=before)
    assert advance(sandbox, after) == make_sandbox(sandbox_id=sandbox.sandbox_id, state=after)


@pytest.mark.parametrize(("before", "after"), [pair for pair in PAIRS if pair[1] not in TRANSITIONS[pair[0]]])
def test_other_steps_conflict(before: SandboxState, after: SandboxState) -> None:
    with pytest.raises(Conflict, match=before.value):
        advance(make_sandbox(state=before), after)


def test_a_step_may_bring_a_new_deadline_and_action() -> None:
    later = NOON + timedelta(hours=1)
    sandbox = advance(
        make_sandbox(state=SandboxState.RESUMING), SandboxState.RUNNING, end_at=later, on_timeout=OnTimeout.PAUSE
    )
    assert (sandbox.end_at, sandbox.on_timeout) == (later, OnTimeout.PAUSE)


@pytest.mark.parametrize("state", [state for state in SandboxState if state is not SandboxState.KILLED])
def test_everything_that_exists_can_end(state: SandboxState) -> None:
    assert state is SandboxState.KILLING or SandboxState.KILLING in TRANSITIONS[state]


def test_clients_see_the_state_before_an_operation() -> None:
    assert visible_state(SandboxState.PAUSING) is VisibleState.RUNNING
    assert visible_state(SandboxState.RESUMING) is VisibleState.PAUSED


@pytest.mark.parametrize("state", [SandboxState.CREATING, SandboxState.KILLING, SandboxState.KILLED])
def test_clients_do_not_see_what_is_not_there(state: SandboxState) -> None:
    assert visible_state(state) is None


@pytest.mark.parametrize("state", [SandboxState.KILLING, SandboxState.KILLED])
def test_what_was_being_killed_does_not_come_back(state: SandboxState) -> None:
    assert state not in RECOVERED


def test_one_that_was_being_created_runs_if_it_is_alive() -> None:
    assert RECOVERED[SandboxState.CREATING] is SandboxState.RUNNING


def test_recovery_completes_what_was_under_way() -> None:
    for state, target in RECOVERED.items():
        assert state is target or target in TRANSITIONS[state]
