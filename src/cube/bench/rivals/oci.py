"""Rivals that start an OCI bundle: runc, crun, and gVisor's runsc."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from cube.bench.load import RoundFailed
from cube.bench.rivals.ground import SHELL, Container, call, directory
from cube.cubelet.runtime.container.seccomp import policy
from cube.model.resources import Resources


class OciRuntime(Container):
    """Starts containers with an OCI runtime; ``options`` are put before each of its verbs.

    It gets the limits and the system call filter of a sandbox.
    """

    def __init__(self, runtime: str, image: Path, workspace: Path, *options: str) -> None:
        super().__init__(runtime, runtime, image, workspace)
        self._command = (self.program, f"--root={workspace / runtime}", *options)
        self._config = self._specification()

    def _specification(self) -> str:
        with directory(self.workspace / "specification") as bundle:
            call(*self._command, "spec", "--bundle", str(bundle))
            config = json.loads((bundle / "config.json").read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] = ["/bin/sleep", "infinity"]
        config["root"] = {"path": "rootfs", "readonly": False}
        config["linux"]["resources"] = _limits(Resources())
        config["linux"]["seccomp"] = _filter()
        return json.dumps(config)

    def prepare(self, bundle: Path) -> None:
        """See :class:`Rival`."""
        (bundle / "config.json").write_text(self._config)

    def start(self, name: str, bundle: Path) -> None:
        """See :class:`Container`."""
        call(*self._command, "run", "--detach", "--bundle", str(bundle), name)

    def execute(self, name: str) -> bytes:
        """See :class:`Container`."""
        return call(*self._command, "exec", name, *SHELL, output=True)

    def remove(self, name: str) -> None:
        """See :class:`Rival`."""
        with contextlib.suppress(RoundFailed):
            call(*self._command, "delete", "--force", name)


def _limits(resources: Resources) -> dict[str, object]:
    """The limits of a sandbox, as the OCI runtime specification writes them."""
    period = 100_000
    return {
        "memory": {"limit": resources.memory_mb << 20},
        "cpu": {"quota": resources.cpu_count * period, "period": period},
        "pids": {"limit": resources.pids},
        "devices": [{"allow": False, "access": "rwm"}],
    }


def _filter() -> dict[str, object]:
    """The system calls that a sandbox may use whatever their arguments, and those that it may use with conditions."""
    names = sorted(policy.allowed_calls() | {rule.call for rule in policy.CONDITIONAL})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64" if os.uname().machine == "x86_64" else "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    }
