"""Where the time of a start goes."""

from __future__ import annotations

import time


class Stopwatch:
    """Milliseconds of one start by what they were spent on, in order: ``seat``, ``layer``, ``network``, ``qemu``
    (until it takes commands) and ``state`` (of the devices), or ``fork`` in the place of these two, and ``guest``
    (until it has confirmed who it is)."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """What has passed since the last lap was spent on this."""
        now = time.perf_counter()
        self.laps[name] = round(1000 * (now - self._last), 2)
        self._last = now
