from __future__ import annotations

import os
from pathlib import Path

import pytest

from cube.cubelet.cgroups.detect import CgroupHost
from cube.cubelet.cgroups.group import Cgroup, CgroupUsage
from cube.cubelet.cgroups.manager import CgroupManager
from cube.model.errors import HostError, NotFound
from cube.model.resources import Resources
from cube.settings import Settings
from support.descriptors import open_fds


def read(directory: Path, name: str) -> str:
    return (directory / name).read_text().strip()


def test_limit_writes_the_v2_files(v2_group: Cgroup, v2_directory: Path) -> None:
    v2_group.limit(Resources(cpu_count=3, memory_mb=1, pids=7))
    assert read(v2_directory, "cpu.max") == "300000 100000"
    assert read(v2_directory, "memory.max") == "1048576"
    assert read(v2_directory, "memory.swap.max") == "0"
    assert read(v2_directory, "pids.max") == "7"


def test_limit_writes_only_what_differs(v2_group: Cgroup, v2_directory: Path) -> None:
    v2_group.limit(Resources(cpu_count=1, pids=7))
    (v2_directory / "cpu.max").write_text("untouched")
    v2_group.limit(Resources(cpu_count=1, pids=8))
    assert read(v2_directory, "cpu.max") == "untouched"
    assert read(v2_directory, "pids.max") == "8"


def test_host_without_swap_has_no_swap_limit(v2_group: Cgroup, v2_directory: Path) -> None:
    (v2_directory / "memory.swap.max").unlink()
    v2_group.limit(Resources())
    assert not (v2_directory / "memory.swap.max").exists()


def test_refused_limit_names_the_file(v2_group: Cgroup, v2_directory: Path) -> None:
    (v2_directory / "pids.max").unlink()
    with pytest.raises(HostError, match=r"pids\.max: No such file"):
        v2_group.limit(Resources())


def test_usage_and_oom_kills_read_the_v2_files(v2_group: Cgroup) -> None:
    assert v2_group.usage() == CgroupUsage(1.5, 8192, 2048, 3)
    assert v2_group.oom_kills() == 1


def test_usage_of_a_group_that_is_gone(v2_host: CgroupHost) -> None:
    gone = Cgroup(v2_host, "cube", "gone")
    with pytest.raises(NotFound):
        gone.usage()
    with pytest.raises(NotFound):
        gone.oom_kills()
    assert gone.pids() == []


async def test_freeze_and_kill_use_the_v2_files(v2_group: Cgroup, v2_directory: Path) -> None:
    await v2_group.freeze()
    assert read(v2_directory, "cgroup.freeze") == "1"
    await v2_group.thaw()
    assert read(v2_directory, "cgroup.freeze") == "0"
    await v2_group.kill()
    assert read(v2_directory, "cgroup.kill") == "1"


def test_one_descriptor_to_join_with(v2_group: Cgroup, v2_directory: Path) -> None:
    (descriptor,) = v2_group.procs_fds()
    try:
        assert os.readlink(f"/proc/self/fd/{descriptor}") == str(v2_directory / "cgroup.procs")
    finally:
        os.close(descriptor)


def test_no_descriptor_stays_open_when_a_hierarchy_is_missing(v2_group: Cgroup, v2_directory: Path) -> None:
    (v2_directory / "cgroup.procs").unlink()
    before = open_fds()
    with pytest.raises(FileNotFoundError):
        v2_group.procs_fds()
    assert open_fds() == before


def test_prepare_hands_controllers_down(v2_host: CgroupHost, tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "cube"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (directory / "cgroup.subtree_control").write_text("")
    CgroupManager(Settings(instance="cube"), v2_host).prepare()
    assert read(tmp_path, "cgroup.subtree_control") == "+cpu +memory +pids"
    assert read(tmp_path / "cube", "cgroup.subtree_control") == "+cpu +memory +pids"


def test_prepare_says_which_controllers_were_withheld(v2_host: CgroupHost, tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    with pytest.raises(HostError, match="memory were not handed to"):
        CgroupManager(Settings(instance="cube"), v2_host).prepare()


def test_prepare_says_what_the_kernel_lacks() -> None:
    manager = CgroupManager(Settings(instance="cube"), CgroupHost("v2", (), can_freeze=True, can_kill=True))
    with pytest.raises(HostError, match="no cgroup controller for cpu, memory, pids"):
        manager.prepare()


@pytest.mark.parametrize("name", ["", "..", "a/b", "cgroup.procs", "notify_on_release", "-x", "a" * 65, "ä"])
def test_names_that_could_leave_the_parent_are_refused(v2_host: CgroupHost, name: str) -> None:
    manager = CgroupManager(Settings(instance="cube"), v2_host)
    with pytest.raises(ValueError, match="cannot be the name"):
        manager.create(name)
