"""How this machine has mounted its control groups, from what the kernel says in two small files."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Mode = Literal["v1", "hybrid", "v2"]

#: Without these a sandbox cannot be limited; `cube up` refuses to start.
REQUIRED: Final = ("cpu", "memory", "pids")
_V1_CONTROLLERS: Final = frozenset({*REQUIRED, "cpuacct", "devices", "freezer"})
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted hierarchy, as a line of /proc/self/mountinfo tells it."""

    version: Literal[1, 2]
    point: Path
    writable: bool
    #: Of the old interface; the new one lists them in a file.
    controllers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A hierarchy that sandboxes are put into."""

    version: Literal[1, 2]
    #: The topmost directory that we can see; the cgroup of the instance goes below it.
    base: Path
    #: Those of its controllers that we use.
    controllers: frozenset[str]
    writable: bool


@dataclass(frozen=True, slots=True)
class CgroupHost:
    """What the machine offers."""

    mode: Mode
    hierarchies: tuple[Hierarchy, ...]
    #: The new interface can freeze a cgroup (Linux 5.2) and kill all of it at once (5.14), also beside the old one.
    can_freeze: bool
    can_kill: bool

    def hierarchy(self, controller: str) -> Hierarchy | None:
        """The hierarchy that has this controller."""
        return next((found for found in self.hierarchies if controller in found.controllers), None)

    @property
    def unified(self) -> Hierarchy | None:
        """The hierarchy of the new interface, with or without controllers; ``None`` when it is not used."""
        return next((found for found in self.hierarchies if found.version == 2), None)

    @property
    def missing(self) -> tuple[str, ...]:
        """Required controllers that no hierarchy has."""
        return tuple(name for name in REQUIRED if self.hierarchy(name) is None)


def detect() -> CgroupHost:
    """Describe this machine. Makes and removes one cgroup to see what the new interface can do: needs root for that."""
    mounts = list(parse_mountinfo(Path("/proc/self/mountinfo").read_text()))
    new = _choose(mount for mount in mounts if mount.version == 2)
    if new is None:
        return describe(mounts)
    controllers = (new.point / "cgroup.controllers").read_text().split()
    files = _core_files(new.point)
    return describe(mounts, controllers, can_freeze="cgroup.freeze" in files, can_kill="cgroup.kill" in files)


def describe(
    mounts: Sequence[Mount],
    v2_controllers: Iterable[str] = (),
    *,
    can_freeze: bool = False,
    can_kill: bool = False,
) -> CgroupHost:
    """Decide what to use of what is mounted.

    A controller is taken from the old interface where that has it. Hierarchies that would add nothing are left out:
    each one costs a write in every start of a sandbox. The base is always the mount point: on a plain host that is the
    root of the hierarchy, where sandboxes outlive a restart of the unit that the service runs in; in a container it is
    the container's own cgroup, whatever path that has outside.
    """
    old = {mount.controllers for mount in mounts if mount.version == 1}
    covered = frozenset[str]().union(*old)
    left = frozenset(REQUIRED) & frozenset(v2_controllers) - covered
    new = _choose(mount for mount in mounts if mount.version == 2) if left or can_freeze or can_kill else None
    useful = _V1_CONTROLLERS - ({"cpuacct"} if new else set()) - ({"freezer"} if can_freeze else set())
    hierarchies = [_old_hierarchy(mounts, found, useful) for found in sorted(old, key=sorted) if found & useful]
    mode: Mode = ("hybrid" if new else "v1") if hierarchies else "v2"
    if new is not None:
        hierarchies.append(Hierarchy(2, new.point, left, new.writable))
    return CgroupHost(mode, tuple(hierarchies), can_freeze, can_kill)


def parse_mountinfo(text: str) -> Iterator[Mount]:
    """The cgroup mounts among the lines of a mountinfo file (proc_pid_mountinfo(5))."""
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not separator or len(fields) < 6 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        options = kind[2].split(",")
        yield Mount(
            version=2 if kind[0] == "cgroup2" else 1,
            point=Path(_unescape(fields[4])),
            writable="rw" in fields[5].split(",") and "rw" in options,
            controllers=frozenset() if kind[0] == "cgroup2" else frozenset(options) & _V1_CONTROLLERS,
        )


def _old_hierarchy(mounts: Sequence[Mount], controllers: frozenset[str], useful: frozenset[str]) -> Hierarchy:
    mount = min((found for found in mounts if found.controllers == controllers), key=_read_only)
    return Hierarchy(1, mount.point, controllers & useful, mount.writable)


def _choose(mounts: Iterable[Mount]) -> Mount | None:
    return min(mounts, key=_read_only, default=None)


def _read_only(mount: Mount) -> bool:
    """Sorts what can be written first: LXC shows a hierarchy twice, read-only from above and writable at our place."""
    return not mount.writable


def _core_files(base: Path) -> set[str]:
    """Names of the files of a cgroup that is not the root: only there do freeze and kill exist."""
    with contextlib.suppress(OSError):
        probe = tempfile.mkdtemp(prefix="cube-probe-", dir=base)
        try:
            return set(os.listdir(probe))
        finally:
            os.rmdir(probe)
    return set()


def _unescape(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
