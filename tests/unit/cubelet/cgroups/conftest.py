"""A directory tree that looks like a v2 hierarchy: which files get which values can be seen without the controllers.

The kernel's side, freezing and killing, is tested on real cgroups in tests/integration/cubelet/cgroups.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cube.cubelet.cgroups.detect import CgroupHost, Hierarchy
from cube.cubelet.cgroups.group import Cgroup

#: Empty where a test writes: a real control file forgets its old content, these do not.
FILES = {
    "cgroup.controllers": "cpuset cpu io memory pids\n",
    "cgroup.subtree_control": "",
    "cgroup.procs": "",
    "cgroup.freeze": "",
    "cgroup.kill": "",
    "cgroup.events": "populated 0\nfrozen 1\n",
    "cpu.max": "",
    "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\n",
    "memory.max": "",
    "memory.swap.max": "",
    "memory.oom.group": "",
    "memory.current": "8192\n",
    "memory.stat": "anon 4096\nfile 2048\n",
    "memory.events": "low 0\noom 2\noom_kill 1\n",
    "pids.max": "",
    "pids.current": "3\n",
}


@pytest.fixture
def v2_host(tmp_path: Path) -> CgroupHost:
    hierarchy = Hierarchy(2, tmp_path, frozenset({"cpu", "memory", "pids"}), writable=True)
    return CgroupHost("v2", (hierarchy,), can_freeze=True, can_kill=True)


@pytest.fixture
def v2_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "cube" / "sandbox"
    directory.mkdir(parents=True)
    for name, content in FILES.items():
        (directory / name).write_text(content)
    return directory


@pytest.fixture
def v2_group(v2_host: CgroupHost, v2_directory: Path) -> Cgroup:
    return Cgroup(v2_host, "cube", "sandbox")
