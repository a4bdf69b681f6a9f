"""The state machine of a sandbox, as pure functions over ``cube.model.sandbox.TRANSITIONS``."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from cube.model.errors import Conflict
from cube.model.sandbox import TRANSITIONS, Condition, OnTimeout, PauseMode, Sandbox, SandboxState


class VisibleState(StrEnum):
    """What E2B's clients know. A pause or resume that is under way shows the state before it."""

    RUNNING = "running"
    PAUSED = "paused"


_VISIBLE = {
    SandboxState.RUNNING: VisibleState.RUNNING,
    SandboxState.PAUSING: VisibleState.RUNNING,
    SandboxState.PAUSED: VisibleState.PAUSED,
    SandboxState.RESUMING: VisibleState.PAUSED,
    SandboxState.ROLLING_BACK: VisibleState.RUNNING,
}

#: What becomes of a sandbox whose operation was cut off by the end of the service, if it is alive: pauses and resumes
#: are completed, a kill too; one that was being created runs, for its client may have been told of it. A rollback is
#: not: it has happened or it has not.
RECOVERED: dict[SandboxState, SandboxState] = {
    SandboxState.CREATING: SandboxState.RUNNING,
    SandboxState.RUNNING: SandboxState.RUNNING,
    SandboxState.RESUMING: SandboxState.RUNNING,
    SandboxState.PAUSING: SandboxState.PAUSED,
    SandboxState.PAUSED: SandboxState.PAUSED,
    SandboxState.ROLLING_BACK: SandboxState.RUNNING,
}
_PAUSE_MODES = {
    Condition.RUNNING: None,
    Condition.PAUSED: PauseMode.FULL,
    Condition.STOPPED: PauseMode.FILESYSTEM,
}


#: A timeout that never comes, as CubeSandbox's client spells it, and the end that a sandbox with it has. A year before
#: the last, so that clients can show it in every time zone.
WITHOUT_END = -1
NEVER = datetime(9998, 12, 31, tzinfo=UTC)


def end_after(now: datetime, seconds: float) -> datetime:
    """When the time of a sandbox is up that has so many seconds from ``now``, or :data:`WITHOUT_END`."""
    return NEVER if seconds == WITHOUT_END else now + timedelta(seconds=seconds)


def visible_state(state: SandboxState) -> VisibleState | None:
    """What a client is shown; ``None`` when it shall not see the sandbox (not yet there, or on its way out)."""
    return _VISIBLE.get(state)


def advance(
    sandbox: Sandbox,
    to: SandboxState,
    *,
    end_at: datetime | None = None,
    on_timeout: OnTimeout | None = None,
    pause_mode: PauseMode | None = None,
) -> Sandbox:
    """The sandbox in its next state; raises ``Conflict`` when that state may not follow."""
    if to not in TRANSITIONS[sandbox.state]:
        raise Conflict(f"sandbox {sandbox.sandbox_id!r} is {sandbox.state.value} and cannot become {to.value}")
    return replace(
        sandbox,
        state=to,
        end_at=end_at or sandbox.end_at,
        on_timeout=on_timeout or sandbox.on_timeout,
        pause_mode=None if to is SandboxState.RUNNING else pause_mode or sandbox.pause_mode,
    )


def wanted(sandbox: Sandbox) -> Condition:
    """The condition in which a restarted service wants a sandbox that is in :data:`RECOVERED`."""
    if RECOVERED[sandbox.state] is SandboxState.RUNNING:
        return Condition.RUNNING
    return Condition.STOPPED if sandbox.pause_mode is PauseMode.FILESYSTEM else Condition.PAUSED


def as_found(sandbox: Sandbox, condition: Condition) -> Sandbox:
    """The sandbox as a restarted service has found it, whatever it was in the middle of."""
    state = SandboxState.RUNNING if condition is Condition.RUNNING else SandboxState.PAUSED
    return replace(sandbox, state=state, pause_mode=_PAUSE_MODES[condition])
