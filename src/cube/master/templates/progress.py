"""How far a build has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Steps of a build, in order."""

    SOURCE = "source"
    CUSTOMISE = "customise"
    PACK = "pack"
    INSTALL = "install"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Progress:
    """One event: ``fraction`` of the whole build, 0 to 1, and a line for people."""

    phase: Phase
    fraction: float
    message: str


Report = Callable[[Progress], None]

#: Where in the whole a phase starts and ends, by the time it takes on the reference machine.
_SPANS = {
    Phase.SOURCE: (0.0, 0.6),
    Phase.CUSTOMISE: (0.6, 0.9),
    Phase.PACK: (0.9, 0.98),
    Phase.INSTALL: (0.98, 1.0),
    Phase.READY: (1.0, 1.0),
}


@dataclass(slots=True)
class Meter:
    """Turns the progress within a phase into progress of the whole, which never goes back."""

    report: Report
    _reached: float = 0.0

    def __call__(self, phase: Phase, part: float, message: str) -> None:
        """Report that ``part`` (0 to 1) of ``phase`` is done."""
        start, end = _SPANS[phase]
        self._reached = max(self._reached, start + (end - start) * min(max(part, 0.0), 1.0))
        self.report(Progress(phase, self._reached, message))
