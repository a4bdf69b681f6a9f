"""Sandboxes as machines: cloned, paused to disk, captured, rolled back, with a real QEMU and a real guest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.cubelet.runtime.microvm import capture, templates
from cube.cubelet.runtime.microvm.boot.command_line import MACHINE
from cube.cubelet.runtime.microvm.instance import MicroVMInstance
from cube.envd.guest import SpawnRequest
from cube.model.errors import SandboxNotRunning, Unsupported
from cube.model.ids import new_snapshot_id
from cube.model.mounts import HostMount
from cube.model.sandbox import SandboxSpec
from support.inside_sandbox import read_until, release
from support.launch_ground import exists
from support.vm_node import SHELL, VmNode, run, vm_node

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[VmNode]:
    async with vm_node(tmp_path) as made:
        yield made


class TestClones:
    async def test_each_is_a_sandbox_of_its_own(self, node: VmNode) -> None:
        """Hazards of a clone: names, machine id, address, random numbers, clock."""
        clones = [await node.create() for _ in range(3)]
        for clone in clones:
            assert await run(clone, "hostname") == clone.sandbox_id
            assert clone.address in await run(clone, "ip -4 addr show dev eth0")
            assert abs(float(await run(clone, "date +%s")) - time.time()) < 30
        for command in ("cat /etc/machine-id", "head -c 16 /dev/urandom | od -An -tx1", "hostname"):
            assert len({await run(clone, command) for clone in clones}) == 3, command

    async def test_what_one_writes_no_other_sees(self, node: VmNode) -> None:
        first, second = await node.create(), await node.create()
        await run(first, "echo secret > /root/file; sync")
        assert await run(first, "cat /root/file") == "secret"
        assert "No such file" in await run(second, "cat /root/file")

    async def test_its_limits_and_its_size_are_those_of_the_template(self, node: VmNode) -> None:
        clone = await node.create()
        assert await run(clone, "nproc") == str(node.template.resources.cpu_count)
        total = int(await run(clone, "awk '/MemTotal/{print $2}' /proc/meminfo"))
        assert 0.7 < total / 1024 / node.template.resources.memory_mb <= 1

    async def test_it_reaches_its_gateway(self, node: VmNode) -> None:
        clone = await node.create()
        assert " 0% packet loss" in await run(clone, f"ping -c 1 -W 10 {clone.seat.link.gateway}")

    async def test_usage_is_counted(self, node: VmNode) -> None:
        used = await node.runtime.stats(await node.create())
        assert used.cpu_seconds > 0
        assert used.memory_bytes > 1 << 20

    async def test_destroying_one_leaves_nothing(self, node: VmNode) -> None:
        clone = await node.create()
        pid, layer = clone.running.vmm.pid, node.layer(clone)
        await node.runtime.destroy(clone.sandbox_id)
        assert not exists(pid)
        assert not layer.exists()
        assert not list((node.settings.run_dir / "vm").glob(f"{clone.seat.name}.*"))
        assert clone.sandbox_id not in await node.runtime.leftovers()
        await node.runtime.destroy(clone.sandbox_id)

    async def test_directories_of_the_host_are_refused(self, node: VmNode) -> None:
        resources = node.template.resources
        spec = SandboxSpec("i1", node.template, resources, host_mounts=(HostMount("/srv", "/mnt"),))
        with pytest.raises(Unsupported, match="cannot share directories"):
            await node.runtime.create(spec)

    @pytest.mark.parametrize("turns", [1, 5, 20, 60])
    async def test_a_cancelled_create_leaves_nothing(self, node: VmNode, turns: int) -> None:
        spec = node.spec()
        await node.create()  # so that the template is there
        creating = asyncio.create_task(node.runtime.create(spec))
        for _ in range(turns):
            await asyncio.sleep(0)
        creating.cancel()
        await asyncio.gather(creating, return_exceptions=True)
        assert spec.sandbox_id not in await node.runtime.leftovers()


class TestPause:
    async def test_it_frees_the_memory_and_nothing_that_runs_is_lost(self, node: VmNode) -> None:
        """The same pipe goes on: not a line is lost or repeated."""
        box = await node.create()
        script = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done"
        process = await box.guest.spawn(SpawnRequest((SHELL, "-c", script), "root"))
        before = await asyncio.to_thread(read_until, process.stdout, "\n5\n")
        pid = box.running.vmm.pid
        assert await node.runtime.pause(box, memory=True) is box
        assert not exists(pid)
        with pytest.raises(SandboxNotRunning):
            await node.runtime.stats(box)
        assert await node.runtime.resume(box.spec, box, memory=True) is box
        last = int(before.split()[-1])
        after = await asyncio.to_thread(read_until, process.stdout, f"\n{last + 20}\n")
        numbers = [int(word) for word in (before + after).split()]
        assert numbers == list(range(1, len(numbers) + 1))
        await process.signal(9)
        release(process)

    async def test_files_identity_and_address_stay(self, node: VmNode) -> None:
        box = await node.create()
        asked = (
            "cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname; ip -4 -o addr show dev eth0; cat /root/f"
        )
        await run(box, "echo kept > /root/f")
        before = await run(box, asked)
        for _ in range(2):
            await node.runtime.pause(box, memory=True)
            await node.runtime.resume(box.spec, box, memory=True)
        assert await run(box, asked) == before

    async def test_the_clock_is_right_afterwards(self, node: VmNode) -> None:
        box = await node.create()
        await node.runtime.pause(box, memory=True)
        await node.runtime.resume(box.spec, box, memory=True)
        assert abs(float(await run(box, "date +%s")) - time.time()) < 30

    async def test_without_memory_only_the_files_stay(self, node: VmNode) -> None:
        box = await node.create()
        await run(box, "echo kept > /root/f; sleep 1000 >/dev/null 2>&1 &")
        boot = await run(box, "cat /proc/sys/kernel/random/boot_id")
        assert await node.runtime.pause(box, memory=False) is None
        again = await node.runtime.resume(box.spec, None, memory=True)
        assert isinstance(again, MicroVMInstance)
        assert await run(again, "cat /root/f") == "kept"
        assert await run(again, "pidof sleep") == ""
        assert await run(again, "cat /proc/sys/kernel/random/boot_id") != boot

    async def test_a_paused_one_can_be_ended(self, node: VmNode) -> None:
        box = await node.create()
        await node.runtime.pause(box, memory=True)
        await node.runtime.destroy(box.sandbox_id)
        assert not node.layer(box).exists()


class TestSnapshots:
    async def test_the_source_goes_on_and_the_copy_begins_there(self, node: VmNode) -> None:
        box = await node.create()
        await run(box, "echo then > /root/f; sleep 1000 >/dev/null 2>&1 &")
        snapshot = new_snapshot_id()
        await node.runtime.snapshot(box.spec, box, snapshot, memory=True)
        await run(box, "echo later > /root/f")
        copy = await node.create(snapshot)
        assert await run(copy, "cat /root/f; pidof sleep | wc -w") == "then\n1"
        assert await run(box, "cat /root/f") == "later"
        for command in ("cat /etc/machine-id", "hostname", "head -c 16 /dev/urandom | od -An -tx1"):
            assert await run(copy, command) != await run(box, command)
        assert await node.runtime.snapshots() == {snapshot}

    async def test_deleting_one_breaks_nothing_that_came_of_it(self, node: VmNode) -> None:
        box = await node.create()
        await run(box, "echo one > /root/f")
        first, second = new_snapshot_id(), new_snapshot_id()
        await node.runtime.snapshot(box.spec, box, first, memory=True)
        copy = await node.create(first)
        await node.runtime.snapshot(copy.spec, copy, second, memory=True)
        await node.runtime.delete_snapshot(first)
        await node.runtime.delete_snapshot(first)
        await node.runtime.destroy(box.sandbox_id)
        assert await run(copy, "cat /root/f") == "one"
        await node.runtime.pause(copy, memory=True)
        await node.runtime.resume(copy.spec, copy, memory=True)
        assert await run(copy, "cat /root/f") == "one"
        assert await run(await node.create(second), "cat /root/f") == "one"

    async def test_of_files_alone(self, node: VmNode) -> None:
        box = await node.create()
        await run(box, "echo files > /root/f")
        snapshot = new_snapshot_id()
        await node.runtime.snapshot(box.spec, box, snapshot, memory=False)
        assert await run(box, "cat /root/f") == "files"
        assert await run(await node.create(snapshot), "cat /root/f") == "files"

    async def test_of_a_paused_one(self, node: VmNode) -> None:
        box = await node.create()
        await run(box, "echo paused > /root/f")
        await node.runtime.pause(box, memory=True)
        snapshot = new_snapshot_id()
        await node.runtime.snapshot(box.spec, box, snapshot, memory=True)
        copy = await node.create(snapshot)
        assert await run(copy, "cat /root/f") == "paused"
        await node.runtime.resume(box.spec, box, memory=True)
        assert copy.address != box.address
        assert await run(copy, "cat /etc/machine-id") != await run(box, "cat /etc/machine-id")

    async def test_rolling_back_keeps_the_id_and_the_address(self, node: VmNode) -> None:
        box = await node.create()
        await run(box, "echo then > /root/f")
        snapshot = new_snapshot_id()
        await node.runtime.snapshot(box.spec, box, snapshot, memory=True)
        await run(box, "echo later > /root/f; echo more > /root/g")
        await node.runtime.rollback(box.spec, box, snapshot)
        again = await node.runtime.resume(box.spec, None, memory=True)
        assert isinstance(again, MicroVMInstance)
        assert await run(again, "cat /root/f; ls /root; hostname") == f"then\nf\n{box.sandbox_id}"
        assert again.address == box.address
        await node.runtime.rollback(again.spec, again, snapshot)
        assert isinstance(await node.runtime.resume(box.spec, None, memory=True), MicroVMInstance)


async def test_the_capture_of_a_template_is_made_once(node: VmNode) -> None:
    first, second = await asyncio.gather(node.create(), node.create())
    assert first.running.memory == second.running.memory
    (made,) = node.settings.volume_dir.joinpath("cache").iterdir()
    assert (made / capture.MANIFEST).exists()


async def test_a_capture_is_made_again_when_its_ingredients_change(
    node: VmNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an upgrade would go on with what it has replaced."""
    before = await node.runtime._templates._key(node.template)
    assert await node.runtime._templates._key(node.template) == before
    monkeypatch.setattr(templates, "MACHINE", (*MACHINE, "audit=0"))
    assert await node.runtime._templates._key(node.template) != before
