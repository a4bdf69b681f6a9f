"""Whether the machine is short of memory, so that nothing should be kept ready in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

#: Percent of the last ten seconds in which some task waited for memory: more means that it is short.
_STALLED = 10.0
#: Seconds for which an answer is good.
_FRESH = 0.5


class MemoryGauge:
    """Reads ``/proc``: what is available, and where the kernel counts that, how long tasks waited for memory."""

    def __init__(
        self, reserve_percent: int, *, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``reserve_percent`` of the machine's memory must be available, or it counts as short."""
        self._reserve = reserve_percent
        self._proc = proc
        self._clock = clock
        self._asked_at = -_FRESH
        self._short = False

    @property
    def short(self) -> bool:
        """Whether memory is short now; asked again after half a second."""
        now = self._clock()
        if now - self._asked_at >= _FRESH:
            self._asked_at = now
            self._short = self._available_percent() < self._reserve or self._stalled() > _STALLED
        return self._short

    def _available_percent(self) -> float:
        values = dict(line.split(":", 1) for line in (self._proc / "meminfo").read_text().splitlines())
        total, available = (int(values[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
        return 100.0 * available / total

    def _stalled(self) -> float:
        """``some avg10`` of the pressure stall information; 0 on a kernel that counts none."""
        try:
            first = (self._proc / "pressure/memory").read_text().splitlines()[0]
        except (OSError, IndexError):
            return 0.0
        return next((float(field[6:]) for field in first.split() if field.startswith("avg10=")), 0.0)
