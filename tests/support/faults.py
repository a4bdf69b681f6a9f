"""What can go wrong with a service of :mod:`support.service` from outside, and what it has on the machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from support.service import Footprint, Service, footprint

#: How long anything may take to come about; the machine may be slow.
_PATIENCE_S = 120.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fails with ``what`` when it does not come about."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def kill(pids: Iterable[int]) -> None:
    """End processes as a crash would."""
    for pid in pids:
        send(pid, signal.SIGKILL)


def send(pid: int, number: signal.Signals) -> None:
    """A signal to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def first_process(service: Service, sandbox_id: str) -> int | None:
    """Process 1 of a sandbox as the host sees it; ``None`` while it has none."""
    try:
        return int(json.loads((service.run_dir / "sandboxes" / f"{sandbox_id}.json").read_bytes())["pid"])
    except (FileNotFoundError, ValueError):
        return None


def envoy(service: Service, name: str) -> int:
    """Process id of the inbound (``proxy``) or outbound (``egress``) Envoy; 0 while there is none."""
    try:
        return int(json.loads((service.run_dir / name / "envoy.state").read_bytes())["identity"]["pid"])
    except (FileNotFoundError, ValueError):
        return 0


def launchers(service: Service) -> list[int]:
    """The launchers of sandboxes: what the service and its helper themselves have started of their program."""
    return [pid for parent in (service.pid, *helpers(service)) for pid in _children(parent, b"cube-init\0launch\0")]


def helpers(service: Service) -> list[int]:
    """The helper of the service, unless it has died."""
    return _children(service.pid, b"-m\0cube.helper\0")


def _children(parent: int, words: bytes) -> list[int]:
    """Processes that a process has started, whichever of its threads it was, and whose command line has these words."""
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _is_child(pid, parent, words)]


def _is_child(pid: int, parent: int, words: bytes) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(status[1]) == parent and words in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def serves(service: Service) -> bool:
    """Whether the public port answers."""
    with contextlib.suppress(OSError, Exception):
        return service.get("/health").status_code == 200
    return False


def reboot(service: Service) -> None:
    """Everything that a restart of the machine takes away: processes, mounts, interfaces, tables, the run directory."""
    envoys = [envoy(service, "proxy"), envoy(service, "egress")]
    during = footprint(service)
    service.kill()
    kill(pid for pid in envoys if pid)
    _end_cgroups(during)
    for point in sorted(during.mounts, reverse=True):
        subprocess.run(["umount", "-l", point], check=False, capture_output=True)
    for name in os.listdir("/sys/class/net"):
        if name.startswith(f"{service.instance}-"):
            subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)
    subprocess.run(["nft", "delete", "table", "inet", service.instance], check=False, capture_output=True)
    shutil.rmtree(service.run_dir)
    until(lambda: not footprint(service).loops, "the volume is still there")


def _end_cgroups(during: Footprint) -> None:
    until(lambda: not _killed(during), "processes do not end")
    for top in during.cgroups:
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def _killed(during: Footprint) -> set[int]:
    """Those in the cgroups, which have been told to end; frozen ones can only do so once they are let go."""
    found: set[int] = set()
    for top in map(Path, during.cgroups):
        for directory, _, names in os.walk(top):  # unlike a glob it does not mind what vanishes meanwhile
            with contextlib.suppress(OSError):
                if "freezer.state" in names:
                    Path(directory, "freezer.state").write_text("THAWED")
                found |= {int(pid) for pid in Path(directory, "cgroup.procs").read_text().split()}
    kill(found)
    return found


@dataclass(frozen=True)
class Holdings:
    """How much of each kind one service has. Whatever is ready for the next sandboxes counts too."""

    processes: int
    cgroups: int
    interfaces: int
    mounts: int
    loops: int
    layers: int
    snapshots: int
    claims: int
    records: int
    #: Entries of nftables sets and maps that name an address of the service's network.
    elements: int

    def within(self, bounds: Holdings) -> bool:
        """Whether there is no more of anything."""
        return all(value <= getattr(bounds, name) for name, value in vars(self).items())


def holdings(service: Service) -> Holdings:
    """What a service has on the machine now."""
    found = footprint(service)
    volume = service.directory / "state" / "volume"
    return Holdings(
        processes=len(found.processes),
        cgroups=sum(1 for top in found.cgroups for _ in os.walk(top)),
        interfaces=len(found.interfaces),
        mounts=len(found.mounts),
        loops=len(found.loops),
        layers=_entries(volume / "layers"),
        snapshots=_entries(volume / "snapshots"),
        claims=sum(1 for _ in (service.directory / "state" / "claims").glob("*/*")),
        records=_entries(service.run_dir / "sandboxes"),
        elements=_elements(service),
    )


def traces(service: Service) -> str:
    """What a failure should tell of: the layers by name, and the end of the log."""
    layers = service.directory / "state" / "volume" / "layers"
    names = sorted(os.listdir(layers)) if layers.is_dir() else []
    lines = (service.directory / "state" / "log" / "cube.log").read_text().splitlines()
    told = [line[:600] for line in lines if '"level": "info"' not in line]
    return "\n".join([f"layers: {names}", *told[-12:]])


def _entries(directory: Path) -> int:
    try:
        return len(os.listdir(directory))
    except FileNotFoundError:
        return 0


def _elements(service: Service) -> int:
    table = subprocess.run(
        ["nft", "list", "table", "inet", service.instance], capture_output=True, text=True, check=True
    )
    return table.stdout.count(service.network.rsplit(".", 2)[0] + ".")
