"""A whole service of its own for tests: own directories, port, network and names, beside any running `cube up`."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

_CUBE = (sys.executable, "-m", "cube.cli.main")


def free_port() -> int:
    """A TCP port of loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Service:
    """Runs ``cube`` commands for one instance."""

    directory: Path
    templates: Path
    #: One letter and a digit: every instance has other names and another part of the network.
    instance: str
    network: str
    port: int = field(default_factory=free_port)
    more: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.directory / "state").mkdir(parents=True, exist_ok=True)
        link = self.directory / "state" / "templates"
        if not link.exists():
            link.symlink_to(self.templates)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CUBE_INSTANCE": self.instance,
            "CUBE_STATE_DIR": str(self.directory / "state"),
            "CUBE_RUN_DIR": str(self.directory / "run"),
            "CUBE_PORT": str(self.port),
            "CUBE_NETWORK_CIDR": self.network,
            "CUBE_VOLUME_GB": "8",
            "CUBE_SEAT_POOL": "4",
            "E2B_API_URL": self.url,
            "E2B_SANDBOX_URL": self.url,
            "E2B_API_KEY": "e2b_" + "0" * 40,
            **self.more,
        }

    @property
    def client(self) -> dict[str, str]:
        """Options for the classes of the E2B client, instead of environment variables."""
        return {"api_url": self.url, "sandbox_url": self.url, "api_key": "e2b_" + "0" * 40}

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a ``cube`` command to its end."""
        done = subprocess.run(
            [*_CUBE, *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"cube {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done

    def up(self) -> None:
        self.run("up", "--detach")

    def down(self) -> None:
        self.run("down")

    @property
    def pid(self) -> int:
        return int((self.directory / "run" / "cube.pid").read_text())

    def kill(self) -> None:
        """End the service as a crash would, and wait until it is gone."""
        handle = os.pidfd_open(self.pid)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not _readable(handle):
            assert time.monotonic() < deadline, "the service does not die"
        os.close(handle)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """GET from the public port, with headers by name (underscores for dashes)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.get(self.url + path, headers=named, timeout=30, trust_env=False)


def _readable(handle: int) -> bool:
    import select

    return bool(select.select([handle], [], [], 0.5)[0])


def traces() -> dict[str, list[str]]:
    """All that a service could leave on the machine: what ``cube down`` must bring back to where it was."""
    return {
        # Who is dead already and waits for a slow init to notice is not counted.
        "processes": _lines(["ps", "-e", "-o", "stat=,comm="], r"^[^Z]\S*\s+(cube|envoy)"),
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "cgroups": sorted(str(path) for path in Path("/sys/fs/cgroup").glob("*/*") if path.is_dir()),
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "namespaces": _namespaces(),
        "tables": _lines(["nft", "list", "tables"], r"."),
        "loops": _lines(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], r"."),
        "run": sorted(os.listdir("/run")),
        "tmp": sorted(os.listdir("/tmp")),
        "shm": sorted(os.listdir("/dev/shm")),
    }


def _lines(command: list[str], pattern: str) -> list[str]:
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sorted(line.strip() for line in output.splitlines() if re.search(pattern, line))


def _namespaces() -> list[str]:
    """Every namespace that some process of the machine is in."""
    found = set()
    for process in Path("/proc").glob("[0-9]*/ns"):
        for entry in ("net", "user", "pid_for_children", "mnt"):
            try:
                found.add(os.readlink(process / entry))
            except OSError:
                continue
    return sorted(found)
