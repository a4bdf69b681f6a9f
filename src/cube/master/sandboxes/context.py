"""What all parts of the sandbox service share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from cube.cubelet.agent import NodeAgent
from cube.master.sandboxes.background import Background
from cube.master.sandboxes.clock import Clock
from cube.master.sandboxes.deadlines import DeadlineTimer
from cube.master.sandboxes.lifecycle import advance, end_after
from cube.master.sandboxes.logbook import LogBook, LogLevel
from cube.master.sandboxes.registry import Entry, Registry
from cube.master.store.sandboxes import SandboxStore
from cube.model.network import NetworkConfig
from cube.model.network_wire import summary
from cube.model.sandbox import OnTimeout, PauseMode, SandboxState

log = structlog.get_logger(__name__)

#: What owners read when a sandbox comes into a state.
_MESSAGES = {SandboxState.RUNNING: "Sandbox runs again", SandboxState.PAUSED: "Sandbox paused"}
_STARTED = "Sandbox started"


@dataclass(frozen=True, slots=True)
class Context:
    """The node that carries out, the store that remembers, and what is known in memory.

    Memory changes first and at once, the store follows in the same order; who needs it durable awaits the write.
    """

    node: NodeAgent
    store: SandboxStore
    clock: Clock
    registry: Registry
    timer: DeadlineTimer
    background: Background
    logs: LogBook

    def move(
        self,
        entry: Entry,
        to: SandboxState,
        *,
        end_at: datetime | None = None,
        on_timeout: OnTimeout | None = None,
        pause_mode: PauseMode | None = None,
    ) -> asyncio.Future[None]:
        """Take a sandbox to its next state; the future is done when that is durable. Raises ``Conflict``."""
        entry.sandbox = advance(entry.sandbox, to, end_at=end_at, on_timeout=on_timeout, pause_mode=pause_mode)
        if (message := _MESSAGES.get(to)) is not None:
            self.logs.note(entry.sandbox.sandbox_id, message if entry.ran else _STARTED)
        entry.ran = entry.ran or to is SandboxState.RUNNING
        self._watch_deadline(entry)
        return self.store.update(entry.sandbox)

    def set_end(self, entry: Entry, end_at: datetime) -> asyncio.Future[None]:
        """Give a running sandbox another deadline; the future is done when that is durable."""
        entry.sandbox = replace(entry.sandbox, end_at=end_at)
        self.logs.note(entry.sandbox.sandbox_id, "Timeout changed", LogLevel.DEBUG, endAt=end_at.isoformat())
        self._watch_deadline(entry)
        return self.store.update(entry.sandbox)

    def set_network(self, entry: Entry, network: NetworkConfig) -> asyncio.Future[None]:
        """Note what a sandbox may reach from now on; the future is done when that is durable."""
        entry.sandbox = replace(entry.sandbox, network=network)
        entry.spec = replace(entry.spec, network=network)
        self.logs.note(entry.sandbox.sandbox_id, "Network policy changed", LogLevel.INFO, policy=summary(network))
        return self.store.update_network(entry.sandbox)

    def postpone(self, entry: Entry, seconds: float) -> None:
        """Do not act on the deadline of a sandbox for so long, even when it has passed."""
        remaining = (entry.sandbox.end_at - self.clock.now()).total_seconds()
        self.timer.set_after(entry.sandbox.sandbox_id, max(remaining, seconds))

    def in_seconds(self, seconds: float) -> datetime:
        """That many seconds from now; see :func:`cube.master.sandboxes.lifecycle.end_after`."""
        return end_after(self.clock.now(), seconds)

    def _watch_deadline(self, entry: Entry) -> None:
        """Only a running sandbox has a deadline that acts."""
        if entry.sandbox.state is SandboxState.RUNNING:
            self.timer.set(entry.sandbox.sandbox_id, entry.sandbox.end_at)
        else:
            self.timer.discard(entry.sandbox.sandbox_id)


def log_failure(write: asyncio.Future[None]) -> None:
    """Have the failure of a write that nobody awaits logged."""
    write.add_done_callback(_log_failed)


def _log_failed(write: asyncio.Future[None]) -> None:
    if not write.cancelled() and (error := write.exception()) is not None:
        log.error("store.write_failed", exc_info=error)
