"""Rivals that start an OCI bundle: runc and crun, on the very image that cube's sandboxes are cloned from.

Each round gets a writable overlay on the mounted image, as a container engine would make it, and the limits and the
system call filter of a sandbox. The rival is spared what cube's figure includes besides: the user namespace with an
id-mapped image, the network link, the disk quota, the record in the database, and the HTTP interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from cube.bench.load import Round, RoundFailed
from cube.bench.sandboxes import COMMAND, EXPECTED
from cube.cubelet.runtime.container.seccomp import policy
from cube.model.resources import Resources

_SHELL = ("/bin/bash", "-l", "-c", COMMAND)


class OciRival:
    """Starts containers with an OCI runtime found in PATH; raises ``FileNotFoundError`` when it is not installed."""

    def __init__(self, runtime: str, image: Path, workspace: Path) -> None:
        binary = shutil.which(runtime)
        if binary is None:
            raise FileNotFoundError(f"{runtime} is not installed: apt-get install {runtime}")
        self._binary = binary
        self._image = image
        self._workspace = workspace
        self._numbers = itertools.count()
        self._config = self._specification()

    def _specification(self) -> str:
        with _directory(self._workspace / "spec") as bundle:
            subprocess.run([self._binary, "spec", "--bundle", str(bundle)], check=True, capture_output=True)
            config = json.loads((bundle / "config.json").read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] = ["/bin/sleep", "infinity"]
        config["root"] = {"path": "rootfs", "readonly": False}
        config["linux"]["resources"] = _limits(Resources())
        config["linux"]["seccomp"] = _filter()
        return json.dumps(config)

    def round(self) -> Round:
        """Start a container, wait for the answer of its first command, end it. Marks: ``create``, ``exec``,
        ``create+exec``."""

        async def once() -> dict[str, float]:
            return await asyncio.to_thread(self._once, f"cube-bench-{os.getpid()}-{next(self._numbers)}")

        return once

    def _once(self, name: str) -> dict[str, float]:
        with _directory(self._workspace / name) as bundle:
            (bundle / "config.json").write_text(self._config)
            for part in ("upper", "work", "rootfs"):
                (bundle / part).mkdir()
            try:
                return self._measure(name, bundle)
            finally:
                self._call("delete", "--force", name, check=False)
                subprocess.run(["umount", str(bundle / "rootfs")], check=False, capture_output=True)

    def _measure(self, name: str, bundle: Path) -> dict[str, float]:
        options = f"lowerdir={self._image},upperdir={bundle}/upper,workdir={bundle}/work"
        begun = time.perf_counter()
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(bundle / "rootfs")], check=True)
        self._call("run", "--detach", "--bundle", str(bundle), name)
        created = time.perf_counter()
        output = self._call("exec", name, *_SHELL)
        answered = time.perf_counter()
        if output != EXPECTED:
            raise RoundFailed(f"the command printed {output!r}")
        return {"create": created - begun, "exec": answered - created, "create+exec": answered - begun}

    def _call(self, verb: str, *args: str, check: bool = True) -> bytes:
        pipe = subprocess.PIPE if verb == "exec" else subprocess.DEVNULL
        done = subprocess.run(
            [self._binary, verb, *args], stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.DEVNULL, check=False
        )
        if check and done.returncode != 0:
            raise RoundFailed(f"{Path(self._binary).name} {verb} ended with {done.returncode}")
        return done.stdout or b""


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


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[Path]:
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path)
