"""bubblewrap: the floor. It starts one command in fresh namespaces; there is no sandbox that lives on."""

from __future__ import annotations

import time
from pathlib import Path

from cube.bench.rivals.ground import SHELL, Rival, call, check


class Bwrap(Rival):
    """No cgroup, no system call filter, no network but loopback, no process 1 of its own. Mark: ``create+exec``."""

    def __init__(self, image: Path, workspace: Path) -> None:
        super().__init__("bwrap", "bubblewrap", image, workspace)

    def measure(self, name: str, bundle: Path) -> dict[str, float]:
        """See :class:`Rival`."""
        places = ("--bind", str(bundle / "rootfs"), "/", "--proc", "/proc", "--dev", "/dev")
        begun = time.perf_counter()
        self.mount(bundle)
        output = call(self.program, *places, "--unshare-all", "--die-with-parent", "--", *SHELL, output=True)
        answered = time.perf_counter()
        check(output)
        return {"create+exec": answered - begun}
