"""A whole service of its own for tests: own directories, port, network and names, beside any running `cube up`."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from support import slots

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
    #: 0 to 15, another one for every service of a run: each has names and a part of the network of its own.
    part: int
    port: int = field(default_factory=free_port)
    egress_port: int = field(default_factory=free_port)
    more: Mapping[str, str] = field(default_factory=dict)
    #: Below a directory that the proxy's user may enter, which pytest's are not.
    run_dir: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="cube-e2e-")) / "run")

    def __post_init__(self) -> None:
        self.run_dir.parent.chmod(0o755)
        (self.directory / "state").mkdir(parents=True, exist_ok=True)
        link = self.directory / "state" / "templates"
        if not link.exists():
            link.symlink_to(self.templates)

    @property
    def instance(self) -> str:
        return slots.instance(self.part)

    @property
    def network(self) -> str:
        return slots.network(self.part)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CUBE_INSTANCE": self.instance,
            "CUBE_STATE_DIR": str(self.directory / "state"),
            "CUBE_RUN_DIR": str(self.run_dir),
            "CUBE_PORT": str(self.port),
            "CUBE_EGRESS_PORT": str(self.egress_port),
            "CUBE_NETWORK_CIDR": self.network,
            "CUBE_VOLUME_GB": "8",
            "CUBE_SEAT_POOL": "4",
            "CUBE_SEAT_POOL_MAX": "16",
            "CUBE_RUNTIME": "container",
            "E2B_API_URL": self.url,
            "E2B_SANDBOX_URL": self.url,
            "E2B_VOLUME_API_URL": self.url,
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

    def close(self) -> None:
        """End it and remove its run directory."""
        self.down()
        self.run_dir.parent.rmdir()

    @property
    def pid(self) -> int:
        return int((self.run_dir / "cube.pid").read_text())

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

    def post(self, path: str, body: Any) -> httpx.Response:
        """POST JSON to the public port."""
        return httpx.post(self.url + path, json=body, timeout=60, trust_env=False)


def _readable(handle: int) -> bool:
    return bool(select.select([handle], [], [], 0.5)[0])


@dataclass(frozen=True)
class Footprint:
    """What one instance has on the machine; other instances and their comings and goings do not count."""

    #: (process id, start time) of the service, its descendants and the processes in its cgroups.
    processes: frozenset[tuple[int, str]]
    #: Namespaces of those that this process is not in.
    namespaces: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    interfaces: frozenset[str]
    tables: frozenset[str]
    loops: frozenset[str]
    files: frozenset[str]
    #: (process id, start time) of every process of the machine.
    everybody: frozenset[tuple[int, str]]


def footprint(service: Service) -> Footprint:
    """Everything that can be found of a service now."""
    directories = (str(service.directory), str(service.run_dir))
    cgroups = frozenset(str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{service.instance}"))
    processes = _processes(service, cgroups)
    return Footprint(
        processes=frozenset((pid, _start_time(pid)) for pid in processes),
        namespaces=frozenset().union(*(_namespaces(pid) for pid in processes)) - _namespaces(os.getpid()),
        mounts=frozenset(point for point in _mount_points() if point.startswith(directories)),
        cgroups=cgroups,
        interfaces=frozenset(name for name in os.listdir("/sys/class/net") if name.startswith(f"{service.instance}-")),
        tables=frozenset(line for line in _output("nft", "list", "tables") if line.split()[-1] == service.instance),
        loops=frozenset(line for line in _output("losetup", "-ln", "-O", "BACK-FILE") if line.startswith(directories)),
        files=_files(service),
        everybody=_everybody(),
    )


def remains(before: Footprint, during: Footprint, after: Footprint) -> dict[str, frozenset[Any]]:
    """What of ``during`` or ``after`` is still there although it was not there before; empty when all is gone."""
    alive = _everybody()
    # The number of a namespace that has ended may be that of one that somebody else has made since.
    everywhere = frozenset().union(*(_namespaces(pid) for pid, _ in alive & during.everybody))
    left = {
        "processes": during.processes & alive,
        "namespaces": during.namespaces & everywhere,
        **{name: getattr(after, name) - getattr(before, name) for name in _BY_NAME},
    }
    return {name: found for name, found in left.items() if found}


_BY_NAME = ("processes", "mounts", "cgroups", "interfaces", "tables", "loops", "files")


def _everybody() -> frozenset[tuple[int, str]]:
    found = ((int(path.name), _start_time(int(path.name))) for path in Path("/proc").glob("[0-9]*"))
    return frozenset((pid, start) for pid, start in found if start)


def _processes(service: Service, cgroups: frozenset[str]) -> set[int]:
    found: set[int] = set()
    for path in cgroups:
        for directory, _, _ in os.walk(path):
            with contextlib.suppress(OSError):  # the cgroup has ended meanwhile
                found |= {int(pid) for pid in Path(directory, "cgroup.procs").read_text().split()}
    with contextlib.suppress(FileNotFoundError):
        found.add(service.pid)
    parents = {int(path.name): _parent(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    for _ in range(5):
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found


def _stat(pid: int) -> list[str]:
    """The fields after the name; those of a process that is gone or waits for its parent are empty."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [] if fields[0] == "Z" else fields


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _start_time(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields else ""


def _namespaces(pid: int) -> frozenset[str]:
    found = set()
    for kind in ("net", "user", "pid", "mnt", "ipc", "uts", "cgroup"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
    return frozenset(found)


def _mount_points() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


#: Directories that tests and benchmarks make; those of others come and go beside ours.
_OF_TESTS = ("cube-e2e-", "cube-bench-", "cube-checks-", "cube-tests-")


def _files(service: Service) -> frozenset[str]:
    """In the usual places for temporary files, and what is not meant to stay in the service's own directories."""
    places = [*Path("/tmp").glob("cube*"), *Path("/dev/shm").glob("*cube*"), *Path("/run").glob("*cube*")]
    own = [*_within(service.run_dir), *(service.directory / "state").glob("volume*")]
    common = [path for path in places if not path.name.startswith(_OF_TESTS) or path == service.run_dir.parent]
    return frozenset(str(path) for path in (*common, *own))


def _within(directory: Path) -> Iterator[Path]:
    """Everything below, but not what is in the images that are mounted there: they have a hundred thousand files."""
    mounted = set(_mount_points())
    for place, directories, files in os.walk(directory):
        yield from (Path(place, name) for name in (*directories, *files))
        directories[:] = [name for name in directories if os.path.join(place, name) not in mounted]


def _output(*command: str) -> list[str]:
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.strip() for line in output.splitlines() if line.strip()]
