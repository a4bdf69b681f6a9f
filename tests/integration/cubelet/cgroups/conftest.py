from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from cube.cubelet.cgroups import Cgroup, CgroupHost, CgroupManager, detect
from cube.cubelet.cgroups.detect import Hierarchy, describe, parse_mountinfo
from cube.settings import Settings

_numbers = count()


def without_new_interface() -> CgroupHost:
    """This machine, had it the old interface alone."""
    mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    return describe([mount for mount in mounts if mount.version == 1])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host" in metafunc.fixturenames:
        metafunc.parametrize("host", ["as it is", "v1 alone", "v2 that cannot kill"], indirect=True)


@pytest.fixture
def host(request: pytest.FixtureRequest) -> CgroupHost:
    """This machine, and what it would be with less."""
    here = detect()
    found = {"v1 alone": without_new_interface(), "v2 that cannot kill": replace(here, can_kill=False)}
    chosen = found.get(request.param, here)
    if chosen.missing:
        pytest.skip(f"this machine has no v1 controllers for {chosen.missing}")
    return chosen


@pytest.fixture
def settings() -> Settings:
    return Settings(instance=f"t{os.getpid() % 100000}{chr(97 + next(_numbers) % 26)}")


@pytest.fixture
async def manager(host: CgroupHost, settings: Settings) -> AsyncIterator[CgroupManager]:
    manager = CgroupManager(settings, host)
    manager.prepare()
    yield manager
    await manager.close(remove=True)


@pytest.fixture
def group(manager: CgroupManager) -> Cgroup:
    return manager.create("sandbox")


@pytest.fixture
def start() -> Iterator[Callable[[Cgroup, str], subprocess.Popen[bytes]]]:
    """Starts Python code inside of a cgroup, in the manner of cube-init: the child itself joins, then executes."""
    running: list[subprocess.Popen[bytes]] = []

    def start(group: Cgroup, code: str) -> subprocess.Popen[bytes]:
        descriptors = group.procs_fds()
        try:
            child = subprocess.Popen(
                [sys.executable, "-S", "-c", code],
                stdout=subprocess.PIPE,
                preexec_fn=lambda: [os.write(descriptor, b"0") for descriptor in descriptors],
            )
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        running.append(child)
        return child

    yield start
    for child in running:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.communicate(timeout=10)


@pytest.fixture
def cgroups_of(settings: Settings) -> Callable[[], list[str]]:
    """All directories of this instance in all hierarchies of the machine."""

    def find() -> list[str]:
        mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
        points = {mount.point for mount in mounts}
        return sorted(str(path) for point in points for path in point.glob(f"{settings.instance}*"))

    return find


@pytest.fixture
def hugetlb_base(settings: Settings) -> Iterator[Hierarchy]:
    """A cgroup of the new interface that stands for a container's: not the root, with a controller to hand down."""
    unified = detect().unified
    controllers = (unified.base / "cgroup.controllers").read_text().split() if unified else []
    if unified is None or "hugetlb" not in controllers:
        pytest.skip("the v2 hierarchy of this machine has no controller to try this with")
    base = unified.base / f"{settings.instance}-container"
    (unified.base / "cgroup.subtree_control").write_text("+hugetlb")
    base.mkdir()
    yield Hierarchy(2, base, frozenset({"hugetlb"}), writable=True)
    for path in (*base.glob("*/*/"), *base.glob("*/"), base):
        path.rmdir()
    (unified.base / "cgroup.subtree_control").write_text("-hugetlb")
