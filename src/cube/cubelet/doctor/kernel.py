"""Probes of the kernel: version, namespaces, seccomp, cgroups."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
from pathlib import Path

from cube.cubelet.doctor.check import Check, in_child, limited, missing, ok

_libc = ctypes.CDLL(None, use_errno=True)

# linux/sched.h
NAMESPACES = {
    "mount": 0x0002_0000,
    "cgroup": 0x0200_0000,
    "uts": 0x0400_0000,
    "ipc": 0x0800_0000,
    "user": 0x1000_0000,
    "pid": 0x2000_0000,
    "net": 0x4000_0000,
}

#: Overlay on id-mapped layers came with 5.19, id-mapped erofs too.
_OLDEST = (5, 19)


def unshare(*names: str) -> None:
    """unshare(2) by names of namespaces; raises ``OSError``."""
    flags = 0
    for name in names:
        flags |= NAMESPACES[name]
    if _libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare {' '.join(names)}: {os.strerror(number)}")


def root() -> Check:
    """Whether we are root with the capabilities that a start needs."""
    if os.geteuid() != 0:
        return missing(f"user id {os.geteuid()}", "Run cube as root: namespaces, mounts and cgroups need it.")
    effective = int(_status_field("CapEff"), 16)
    if not effective & (1 << 21):
        return missing("CAP_SYS_ADMIN is missing", "This root is confined; run cube outside of that container.")
    return ok(f"capabilities {effective:x}")


def _status_field(name: str) -> str:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.split()[1]
    raise OSError(f"/proc/self/status has no {name}")


def version() -> Check:
    """Whether the kernel is new enough."""
    release = platform.release()
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST:
        return missing(
            f"Linux {release}", "Linux 5.19 or later is needed: older ones cannot put an overlay on id-mapped layers."
        )
    return ok(f"Linux {release}")


def namespaces() -> Check:
    """Whether every kind of namespace but the user's can be made."""
    kinds = [name for name in NAMESPACES if name != "user"]
    lacking = [name for name in kinds if not in_child(functools.partial(_made, name))[0]]
    if lacking:
        return missing(f"cannot make: {', '.join(lacking)}", "Sandboxes cannot be isolated on this kernel.")
    return ok(", ".join(kinds))


def _made(kind: str) -> str:
    unshare(kind)
    return kind


def user_namespaces() -> Check:
    """Whether user namespaces can be made, and how many."""
    limit = Path("/proc/sys/user/max_user_namespaces")
    worked, reason = in_child(lambda: unshare("user") or "made one")  # type: ignore[func-returns-value]
    if not worked:
        return missing(reason, "Every sandbox has a user namespace; raise sysctl user.max_user_namespaces.")
    return ok(f"up to {limit.read_text().strip()}" if limit.exists() else "yes")


def seccomp() -> Check:
    """Whether filters can be installed."""
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    if not actions.exists():
        return missing("the kernel has no seccomp filters", "Sandboxes are not started without a system call filter.")
    return ok(actions.read_text().strip())


def cgroups() -> Check:
    """Which cgroup hierarchies there are and what they can limit."""
    found = _controllers()
    mode = _mode()
    lacking = [name for name in ("cpu", "memory", "pids") if name not in found]
    if lacking:
        return limited(
            f"{mode}, without {', '.join(lacking)}",
            f"Limits on {', '.join(lacking)} are not enforced; one sandbox can starve the others.",
        )
    return ok(f"{mode}, controllers {', '.join(sorted(found))}")


def _mounts() -> list[tuple[str, str, str]]:
    """(file system type, mount point, super options) of all mounts."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        mounts.append((kind, left.split()[4], options))
    return mounts


def _mode() -> str:
    kinds = {kind for kind, _, _ in _mounts()}
    if {"cgroup", "cgroup2"} <= kinds:
        return "hybrid (version 1 and 2)"
    return "version 2" if "cgroup2" in kinds else "version 1" if "cgroup" in kinds else "not mounted"


def _controllers() -> set[str]:
    found: set[str] = set()
    for kind, point, options in _mounts():
        if kind == "cgroup":
            found |= set(options.split(","))
        elif kind == "cgroup2":
            found |= set(Path(point, "cgroup.controllers").read_text().split())
    return found & {"cpu", "cpuacct", "cpuset", "memory", "pids", "io", "blkio", "devices", "freezer", "hugetlb"}
