"""What the process of a virtual machine has of the host: nothing."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from cube.cubelet.runtime.microvm.vmm import DOORS, Vmm, VmmEnded
from cube.model.errors import HostError
from support.descriptors import open_fds
from support.launch_ground import childless, status
from support.vm_yard import UID, Yard


@pytest.fixture
async def machine(yard: Yard) -> Vmm:
    return await yard.start()


def test_its_user_is_nobody_elses(machine: Vmm) -> None:
    found = status(machine.pid)
    assert set(found["Uid"].split()) == set(found["Gid"].split()) == {str(UID)}
    assert found["Groups"] == ""


def test_it_has_no_rights(machine: Vmm) -> None:
    found = status(machine.pid)
    assert {found[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert found["NoNewPrivs"] == "1"


def test_its_filter_and_ours_are_both_in_force(machine: Vmm) -> None:
    found = status(machine.pid)
    assert (found["Seccomp"], found["Seccomp_filters"]) == ("2", "2")


@pytest.mark.parametrize("kind", ["net", "mnt", "pid", "ipc", "uts", "user", "cgroup"])
def test_its_namespaces_are_its_own(machine: Vmm, kind: str) -> None:
    assert os.readlink(f"/proc/{machine.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def test_its_network_is_empty(machine: Vmm) -> None:
    lines = Path(f"/proc/{machine.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
    assert Path(f"/proc/{machine.pid}/net/if_inet6").read_text() == ""


def test_its_mounts_are_its_tree_and_its_memory_and_cannot_be_written(machine: Vmm) -> None:
    mounts = [line.split() for line in Path(f"/proc/{machine.pid}/mountinfo").read_text().splitlines()]
    assert {mount[4] for mount in mounts} == {"/", "/memory"}
    for mount in mounts:
        assert {"ro", "nosuid", "nodev"} <= set(mount[5].split(","))


def test_its_tree_has_what_qemu_needs_and_no_more(machine: Vmm) -> None:
    root = Path(f"/proc/{machine.pid}/root")
    assert {path.name for path in root.iterdir()} == {"bin", "boot", "dev", "lib", "lib64", "memory", "share"}
    assert [path.name for path in (root / "bin").iterdir()] == ["qemu"]
    assert list((root / "dev").iterdir()) == []


def test_its_files_belong_to_the_host(yard: Yard) -> None:
    for path in yard.emulator.tree.rglob("*"):
        found = path.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7022) == (0, 0, 0), path


def test_it_has_only_its_own_descriptors(machine: Vmm, yard: Yard) -> None:
    found = {os.readlink(entry) for entry in Path(f"/proc/{machine.pid}/fd").iterdir()}
    files = {name for name in found if name.startswith("/") and not name.startswith("/dev/")}
    assert files == {"/memory", str(yard.directory / "image"), str(yard.directory / "layer")}


def test_the_memory_file_is_mapped_privately_and_opened_to_read(machine: Vmm, yard: Yard) -> None:
    (mapping,) = [line for line in Path(f"/proc/{machine.pid}/maps").read_text().splitlines() if "/memory" in line]
    assert mapping.split()[1] == "rw-p"
    for entry in Path(f"/proc/{machine.pid}/fd").iterdir():
        if os.readlink(entry) == "/memory":
            flags = Path(f"/proc/{machine.pid}/fdinfo/{entry.name}").read_text().split("flags:\t")[1].split()[0]
            assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY
            break
    else:
        pytest.fail("it has not opened its memory")


def test_its_sockets_are_the_services_alone(machine: Vmm, yard: Yard) -> None:
    for door in DOORS:
        found = (yard.directory / f"vm.{door}").stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert (found.st_mode & 0o777, found.st_uid) == (0o600, 0)


def test_limits(machine: Vmm) -> None:
    limits = Path(f"/proc/{machine.pid}/limits").read_text()
    rows = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max open files"] == ["1024", "1024"]


async def test_a_start_that_fails_says_why_and_leaves_nothing(yard: Yard) -> None:
    before = open_fds()
    yard.machine = replace(yard.machine, memory_mb=65)  # more than the file has
    with pytest.raises(VmmEnded, match=r"size 0x4000000 does not match|backing store|memory"):
        await yard.start()
    assert yard.launcher.pid is not None
    assert await childless(yard.launcher.pid)
    assert open_fds() == before


async def test_a_jail_that_cannot_be_made_is_named(yard: Yard) -> None:
    with pytest.raises(HostError, match="opening the staging directory"):
        await yard.start(jail=replace(yard.jail(), stage=yard.directory / "no-such"))


def test_doors_of_a_deep_directory(yard: Yard) -> None:
    deep = yard.directory / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    doors = replace(yard.doors(), directory=deep)
    with doors.listen("control") as listener, doors.connect("control") as connection:
        assert listener.family == connection.family == socket.AF_UNIX
    doors.remove()
    assert list(deep.iterdir()) == []
