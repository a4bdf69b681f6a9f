"""A service that starts again finds its machines, and removes what nobody remembers."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.cubelet.cgroups.events import poll_until
from cube.cubelet.runtime.container.record import start_time
from cube.cubelet.runtime.microvm.instance import MicroVMInstance
from cube.model.errors import SandboxNotFound
from cube.model.ids import new_snapshot_id
from cube.model.sandbox import Condition
from support.vm_node import VmNode, run, vm_node

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[VmNode]:
    async with vm_node(tmp_path) as made:
        yield made


async def start_again(node: VmNode) -> VmNode:
    """End the service and start it; machines go on meanwhile."""
    await node.runtime.close()
    again = node.again()
    await again.runtime.start()
    node.runtime = again.runtime
    return again


async def test_a_running_one_is_found_again(node: VmNode) -> None:
    box = await node.create()
    await run(box, "echo kept > /root/f; sleep 1000 >/dev/null 2>&1 &")
    again = await start_again(node)
    found = await again.adopt(box.spec, Condition.RUNNING)
    assert found.running.vmm.pid == box.running.vmm.pid
    assert await run(found, "cat /root/f; pidof sleep | wc -w; hostname") == f"kept\n1\n{box.sandbox_id}"
    assert found.address == box.address
    await again.runtime.pause(found, memory=True)
    await again.runtime.resume(found.spec, found, memory=True)
    assert await run(found, "cat /root/f") == "kept"
    assert found.address == box.address


async def test_a_paused_one_stays_paused_and_keeps_its_address(node: VmNode) -> None:
    box = await node.create()
    await run(box, "echo kept > /root/f")
    await node.runtime.pause(box, memory=True)
    again = await start_again(node)
    assert (await again.runtime.adopt(box.spec, Condition.PAUSED)).instance is None
    resumed = await again.runtime.resume(box.spec, None, memory=True)
    assert isinstance(resumed, MicroVMInstance)
    assert await run(resumed, "cat /root/f") == "kept"
    assert resumed.address == box.address


async def test_one_that_should_be_paused_is(node: VmNode) -> None:
    box = await node.create()
    again = await start_again(node)
    found = await again.runtime.adopt(box.spec, Condition.PAUSED)
    assert found.condition is Condition.PAUSED
    assert start_time(box.running.vmm.pid) is None


async def test_a_stopped_one_stays_stopped(node: VmNode) -> None:
    box = await node.create()
    await run(box, "echo kept > /root/f")
    await node.runtime.pause(box, memory=False)
    again = await start_again(node)
    assert (await again.runtime.adopt(box.spec, Condition.STOPPED)).condition is Condition.STOPPED
    resumed = await again.runtime.resume(box.spec, None, memory=True)
    assert isinstance(resumed, MicroVMInstance)
    assert await run(resumed, "cat /root/f") == "kept"


async def test_one_that_has_ended_meanwhile_is_gone(node: VmNode) -> None:
    box = await node.create()
    pid = box.running.vmm.pid
    await node.runtime.close()
    os.kill(pid, signal.SIGKILL)
    assert await poll_until(lambda: start_time(pid) is None, 30)
    again = node.again()
    await again.runtime.start()
    node.runtime = again.runtime
    with pytest.raises(SandboxNotFound):
        await again.runtime.adopt(box.spec, Condition.RUNNING)
    assert box.sandbox_id in await again.runtime.leftovers()
    await again.runtime.destroy(box.sandbox_id)
    assert not node.layer(box).exists()


async def test_what_nobody_remembers_is_ended(node: VmNode) -> None:
    box = await node.create()
    pid = box.running.vmm.pid
    (node.settings.run_dir / "vm" / f"{box.sandbox_id}.json").unlink()
    again = await start_again(node)
    assert start_time(pid) is None
    await again.runtime.destroy(box.sandbox_id)


async def test_snapshots_outlive_the_service(node: VmNode) -> None:
    box = await node.create()
    await run(box, "echo kept > /root/f")
    snapshot = new_snapshot_id()
    await node.runtime.snapshot(box.spec, box, snapshot, memory=True)
    again = await start_again(node)
    assert await again.runtime.snapshots() == {snapshot}
    assert await run(await again.create(snapshot), "cat /root/f") == "kept"
