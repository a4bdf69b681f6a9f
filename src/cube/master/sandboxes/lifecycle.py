"""The state machine of a sandbox, as pure functions over ``cube.model.sandbox.TRANSITIONS``."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from enum import StrEnum

from cube.model.errors import Conflict
from cube.model.sandbox import TRANSITIONS, OnTimeout, Sandbox, SandboxState


class VisibleState(StrEnum):
    """What E2B's clients know. A pause or resume that is under way shows the state before it."""

    RUNNING = "running"
    PAUSED = "paused"


_VISIBLE = {
    SandboxState.RUNNING: VisibleState.RUNNING,
    SandboxState.PAUSING: VisibleState.RUNNING,
    SandboxState.PAUSED: VisibleState.PAUSED,
    SandboxState.RESUMING: VisibleState.PAUSED,
}

#: What becomes of a sandbox whose operation was cut off by the end of the service, if it is alive: pauses and resumes
#: are completed, a kill too; one that was being created runs, for its client may have been told of it.
RECOVERED: dict[SandboxState, SandboxState] = {
    SandboxState.CREATING: SandboxState.RUNNING,
    SandboxState.RUNNING: SandboxState.RUNNING,
    SandboxState.RESUMING: SandboxState.RUNNING,
    SandboxState.PAUSING: SandboxState.PAUSED,
    SandboxState.PAUSED: SandboxState.PAUSED,
}


def visible_state(state: SandboxState) -> VisibleState | None:
    """What a client is shown; ``None`` when it shall not see the sandbox (not yet there, or on its way out)."""
    return _VISIBLE.get(state)


def advance(
    sandbox: Sandbox, to: SandboxState, *, end_at: datetime | None = None, on_timeout: OnTimeout | None = None
) -> Sandbox:
    """The sandbox in its next state; raises ``Conflict`` when that state may not follow."""
    if to not in TRANSITIONS[sandbox.state]:
        raise Conflict(f"sandbox {sandbox.sandbox_id!r} is {sandbox.state.value} and cannot become {to.value}")
    return replace(sandbox, state=to, end_at=end_at or sandbox.end_at, on_timeout=on_timeout or sandbox.on_timeout)
