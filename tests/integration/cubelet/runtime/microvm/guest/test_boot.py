"""Guests that boot under QEMU: any image, the identity, and what happens when things go wrong inside."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.envd.guest import ExitStatus, SpawnRequest
from cube.model.errors import SandboxNotRunning
from support.images import fill_minimal_tree
from support.inside_sandbox import read_to_end, release
from support.vm_ground import BOOT_SECONDS, Machine, booted, cold_arguments, erofs, identity, new_layer, start

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Busybox, which is as good as Alpine: no C library that cube-init could rely on."""
    directory = tmp_path_factory.mktemp("minimal")
    fill_minimal_tree(directory / "tree")
    return erofs(directory / "tree", directory / "image")


async def run(guest: MicroVMGuest, script: str, user: str = "root", shell: str = "/bin/sh") -> str:
    """Output of a script that succeeds."""
    process = await guest.spawn(SpawnRequest((shell, "-c", f"exec 2>&1; {script}"), user))
    output = await asyncio.to_thread(read_to_end, process.stdout)
    status = await process.wait()
    release(process)
    assert status == ExitStatus(0), (status, output)
    return output.rstrip("\n")


async def test_a_booted_guest_is_what_a_sandbox_should_be(image: Path, tmp_path: Path) -> None:
    async with booted(tmp_path, image, sudo_uids=(1000,), pids=64, open_files=4096) as (_, guest):
        # Who runs there, and what of the machine shows.
        assert await run(guest, "id -u; ps | wc -l") == "0\n5"
        assert await run(guest, "id -u; sudo id -u", "user") == "1000\n0"
        assert await run(guest, "cat /proc/1/comm; ulimit -n; cat /proc/self/cgroup") == "init\n4096\n0::/"
        assert await run(guest, "cat /sys/fs/cgroup/pids.max") == "64"
        # A file system of its own, with devices and room.
        assert await run(guest, "touch /new /tmp/new && rm /usr/bin/env && ! test -e /usr/bin/env && echo ok") == "ok"
        assert await run(guest, "stat -Lc %a /tmp /dev/shm /dev/null /dev/ptmx; ls -d /dev/pts/ptmx /dev/fd/0") == (
            "1777\n1777\n666\n666\n/dev/fd/0\n/dev/pts/ptmx"
        )
        # Every right over its own kernel.
        assert await run(guest, "mkdir /mnt && mount -t tmpfs x /mnt && grep -c ' /mnt ' /proc/mounts") == "1"
        assert await run(guest, "ifconfig lo 127.0.0.2 && ifconfig lo | grep -c 127.0.0.2") == "1"
        # What the identity has given it.
        assert await run(guest, "hostname; cat /etc/hostname /etc/resolv.conf") == "sbx\nsbx\nnameserver 192.0.2.1"
        assert await run(guest, "cat /run/cube/generation") == f"{1:020d}"
        assert await run(guest, "! echo 2 > /run/cube/generation && echo refused") == (
            "/bin/sh: can't create /run/cube/generation: Read-only file system\nrefused"
        )
        assert abs(int(await run(guest, "date +%s")) - time.time()) < 120


async def test_the_rest_of_the_identity(image: Path, tmp_path: Path) -> None:
    async with booted(tmp_path, image) as (_, guest):
        before = await run(guest, "cat /etc/machine-id /proc/sys/kernel/random/boot_id")
        await guest.identify(identity(2))
        assert await run(guest, "cat /run/cube/generation") == f"{1:020d}", "not a copy: nobody has to reseed"
        await guest.identify(identity(3, hostname="other", reset_connections=True))
        after = await run(guest, "cat /etc/machine-id /proc/sys/kernel/random/boot_id")
        assert before.split()[0] != after.split()[0]
        assert before.split()[1] == after.split()[1], "the boot id is the kernel's"
        assert await run(guest, "hostname; cat /etc/hosts") == "other\n127.0.0.1 localhost\n127.0.1.1 other"
        assert await run(guest, "cat /run/cube/generation") == f"{3:020d}"


async def test_an_image_with_nothing_but_one_program(cube_init: Path, tmp_path: Path) -> None:
    """As distroless ones: no shell, no library, no /etc, none of the directories that are mounted on."""
    tree = tmp_path / "tree"
    tree.mkdir()
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, tree / "busybox")
    async with booted(tmp_path, erofs(tree, tmp_path / "image")) as (_, guest):
        process = await guest.spawn(SpawnRequest(("/busybox", "cat", "/etc/hostname"), "root"))
        assert await asyncio.to_thread(read_to_end, process.stdout) == "sbx\n"
        assert await process.wait() == ExitStatus(0)
        release(process)
        names = {entry.path for entry in await guest.list_dir("/", "root", 1)}
        assert {"/busybox", "/proc", "/dev", "/sys", "/etc", "/run"} <= names


@pytest.mark.parametrize(
    "script",
    [
        "echo c > /proc/sysrq-trigger",
        "echo o > /proc/sysrq-trigger",
        "mkdir -p /p && mount -t proc p /p && kill -9 1; echo b > /proc/sysrq-trigger",
    ],
)
async def test_a_kernel_that_stops_ends_the_machine(image: Path, tmp_path: Path, script: str) -> None:
    async with booted(tmp_path, image) as (machine, guest):
        process = await guest.spawn(SpawnRequest(("/bin/sh", "-c", script), "root"))
        await asyncio.wait_for(guest.closed.wait(), 60)
        await machine.ended()
        with pytest.raises(SandboxNotRunning):
            await process.wait()
        release(process)


async def test_root_inside_cannot_end_process_one_or_the_relay(image: Path, tmp_path: Path) -> None:
    """Not even by killing everything: neither can be seen, or signalled, from inside."""
    async with booted(tmp_path, image) as (_, guest):
        await run(guest, "trap '' TERM; kill -9 1; kill -9 -1 2>/dev/null; true")
        process = await guest.spawn(SpawnRequest(("/bin/sh", "-c", "kill -9 -1; kill -9 2 3 4 5"), "root"))
        await process.wait()
        release(process)
        await guest.ping()
        assert await run(guest, "echo alive") == "alive"


async def test_memory_that_runs_out_costs_programs_not_the_sandbox(image: Path, tmp_path: Path) -> None:
    async with booted(tmp_path, image) as (_, guest):
        hungry = await guest.spawn(SpawnRequest(("awk", 'BEGIN { s = "x"; while (1) s = s s }'), "root"))
        assert await asyncio.wait_for(hungry.wait(), 200) == ExitStatus(None, 9)
        release(hungry)
        await guest.ping()


async def test_processes_that_multiply_stop_at_the_limit(image: Path, tmp_path: Path) -> None:
    async with booted(tmp_path, image, pids=30) as (_, guest):
        script = "for i in $(seq 60); do sleep 1000 & done 2>/dev/null; true"
        bomb = await guest.spawn(SpawnRequest(("/bin/sh", "-c", script), "root"))
        await asyncio.wait_for(bomb.wait(), 100)
        release(bomb)
        await guest.ping()


async def test_a_disk_that_is_full_says_so(image: Path, tmp_path: Path) -> None:
    async with booted(tmp_path, image) as (_, guest):
        process = await guest.spawn(
            SpawnRequest(("/bin/sh", "-c", "dd if=/dev/zero of=/big bs=1M count=600 2>&1"), "root")
        )
        assert "No space left" in await asyncio.to_thread(read_to_end, process.stdout)
        assert (await process.wait()).code == 1
        release(process)
        assert await run(guest, "rm /big && echo ok > /small && cat /small") == "ok"


@pytest.mark.parametrize("missing", ["image", "port"])
async def test_a_machine_that_cannot_boot_ends(image: Path, tmp_path: Path, missing: str) -> None:
    machine = await _started(tmp_path, image, missing)
    try:
        await machine.ended(BOOT_SECONDS)
        assert "cube-init: " in machine.console
    finally:
        machine.kill()


async def _started(directory: Path, image: Path, missing: str) -> Machine:
    if missing == "image":
        return start(directory, None, new_layer(directory / "layer"), await cold_arguments())
    return start(directory, image, None, await cold_arguments(), port_name="another")
