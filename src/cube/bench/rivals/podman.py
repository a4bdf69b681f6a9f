"""podman: a container engine with its own store and locks, over an OCI runtime."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from cube.bench.load import RoundFailed
from cube.bench.rivals.ground import SHELL, CannotRun, Container, call
from cube.model.resources import Resources


class Podman(Container):
    """As root, with a store of its own in the workspace, on a root file system that is there already."""

    def __init__(self, image: Path, workspace: Path) -> None:
        super().__init__("podman", "podman", image, workspace)
        # crun, podman's own choice, refuses hosts with hybrid cgroups.
        runtime = shutil.which("runc") or shutil.which("crun")
        if runtime is None:
            raise CannotRun("podman needs an OCI runtime: apt-get install runc")
        places = {name: str(workspace / f"podman-{name}") for name in ("root", "runroot", "tmpdir")}
        self._command = (
            self.program,
            *(f"--{name}={path}" for name, path in places.items()),
            *("--storage-driver=vfs", "--events-backend=none", "--cgroup-manager=cgroupfs", f"--runtime={runtime}"),
        )

    def start(self, name: str, bundle: Path) -> None:
        """See :class:`Container`."""
        root = ("--rootfs", str(bundle / "rootfs"))
        call(*self._command, "run", "--detach", *_limits(), f"--name={name}", *root, "sleep", "infinity")

    def execute(self, name: str) -> bytes:
        """See :class:`Container`."""
        return call(*self._command, "exec", name, *SHELL, output=True)

    def remove(self, name: str) -> None:
        """See :class:`Rival`."""
        with contextlib.suppress(RoundFailed):
            call(*self._command, "rm", "--force", "--time=0", "--ignore", name)


def _limits() -> tuple[str, ...]:
    """The limits of a sandbox, as far as the machine has so much; podman refuses more processors than there are."""
    resources = Resources()
    cpus = min(resources.cpu_count, os.cpu_count() or 1)
    limits = (f"--memory={resources.memory_mb}m", f"--cpus={cpus}", f"--pids-limit={resources.pids}")
    return ("--network=none", *limits)
