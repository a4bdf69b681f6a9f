from __future__ import annotations

from pathlib import Path

import pytest

from cube.cubelet.cgroups.detect import CgroupHost, describe, parse_mountinfo
from support import cgroup_hosts as hosts

V2_CONTROLLERS = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"]


def described(text: str, controllers: list[str] | None = None, *, freeze: bool = True, kill: bool = True) -> CgroupHost:
    return describe(list(parse_mountinfo(text)), controllers or [], can_freeze=freeze, can_kill=kill)


def bases(host: CgroupHost) -> dict[str, str]:
    return {name: str(found.base) for found in host.hierarchies for name in found.controllers}


def test_v2_host_has_one_hierarchy_for_everything() -> None:
    host = described(hosts.DEBIAN_12, V2_CONTROLLERS)
    assert host.mode == "v2"
    assert host.missing == ()
    assert bases(host) == dict.fromkeys(("cpu", "memory", "pids"), "/sys/fs/cgroup")
    assert host.unified == host.hierarchies[0]


def test_v2_host_without_memory_controller_misses_it() -> None:
    assert described(hosts.DEBIAN_12, ["cpu", "pids"]).missing == ("memory",)


@pytest.mark.parametrize("text", [hosts.UBUNTU_20_04, hosts.WSL_2, hosts.BARE_HYBRID])
def test_hybrid_host_limits_with_v1_and_freezes_with_v2(text: str) -> None:
    host = described(text, ["hugetlb"])
    assert host.mode == "hybrid"
    assert host.missing == ()
    assert {"cpu", "memory", "pids", "devices"} == set(bases(host))
    assert host.unified is not None
    assert host.unified.base == Path("/sys/fs/cgroup/unified")
    assert host.unified.controllers == frozenset()


def test_hybrid_host_with_an_old_kernel_is_used_as_v1() -> None:
    host = described(hosts.UBUNTU_20_04, freeze=False, kill=False)
    assert host.mode == "v1"
    assert host.unified is None
    assert {"freezer", "cpuacct"} < set(bases(host))


def test_hybrid_host_takes_a_controller_from_v2_that_v1_lacks() -> None:
    without_memory = "\n".join(line for line in hosts.BARE_HYBRID.splitlines() if "rw,memory" not in line)
    host = described(without_memory, ["memory"])
    assert bases(host)["memory"] == "/sys/fs/cgroup/unified"
    assert bases(host)["pids"] == "/sys/fs/cgroup/pids"


def test_v1_host_joins_controllers_that_share_a_mount_once() -> None:
    host = described(hosts.RHEL_7, freeze=False, kill=False)
    assert host.mode == "v1"
    assert host.missing == ()
    assert bases(host)["cpu"] == bases(host)["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"
    assert len({found.base for found in host.hierarchies}) == len(host.hierarchies) == 5


def test_container_on_v1_sees_its_own_cgroup_at_the_mount_point_and_cannot_write() -> None:
    host = described(hosts.DOCKER_V1, freeze=False, kill=False)
    assert bases(host)["memory"] == "/sys/fs/cgroup/memory"
    assert not any(found.writable for found in host.hierarchies)


def test_container_on_v2_is_like_a_v2_host() -> None:
    host = described(hosts.DOCKER_V2, ["cpu", "memory", "pids"])
    assert (host.mode, host.missing) == ("v2", ())


def test_writable_mount_of_a_hierarchy_is_preferred() -> None:
    host = described(hosts.LXC_MIXED, freeze=False, kill=False)
    assert bases(host) == {"memory": "/sys/fs/cgroup/memory/lxc/c1"}
    assert host.hierarchies[0].writable


def test_named_hierarchies_and_other_file_systems_are_no_controllers() -> None:
    host = described("40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=memory\nnonsense\n")
    assert host.hierarchies == ()
    assert host.missing == ("cpu", "memory", "pids")


def test_mount_point_with_escaped_characters() -> None:
    (mount,) = parse_mountinfo(r"40 31 0:37 / /mnt/my\040groups rw shared:1 - cgroup cgroup rw,pids")
    assert mount.point == Path("/mnt/my groups")
