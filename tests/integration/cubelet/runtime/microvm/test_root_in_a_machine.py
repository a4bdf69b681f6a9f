"""What root in a guest can do to its own machine: its end is noticed, and nobody else's begins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.model.errors import SandboxNotRunning
from support.launch_ground import exists
from support.vm_node import VmNode, run, vm_node

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[VmNode]:
    async with vm_node(tmp_path) as made:
        yield made


async def test_a_kernel_that_panics_takes_its_machine_along_and_no_other(node: VmNode) -> None:
    box, other = await node.create(), await node.create()
    pid = box.running.vmm.pid
    with contextlib.suppress(SandboxNotRunning):
        await run(box, "echo c > /proc/sysrq-trigger")
    await asyncio.wait_for(box.died(), 60)
    await asyncio.wait_for(box.running.vmm.ended.wait(), 60)
    assert not exists(pid)
    await node.runtime.destroy(box.sandbox_id)
    assert not node.layer(box).exists()
    assert await run(other, "echo untouched") == "untouched"


async def test_signals_do_not_reach_the_agent(node: VmNode) -> None:
    box = await node.create()
    await run(box, "kill -9 1; kill -SEGV 1; kill -STOP 1; kill -9 -1")
    assert await run(box, "cat /proc/1/comm") == "init"


async def test_an_agent_that_root_has_the_kernel_kill_is_noticed(node: VmNode) -> None:
    """Its machine is of no use to anybody then, and ends."""
    box = await node.create()
    with contextlib.suppress(SandboxNotRunning):
        await run(box, "echo i > /proc/sysrq-trigger")
    await asyncio.wait_for(box.died(), 60)
    await asyncio.wait_for(box.running.vmm.ended.wait(), 60)
    await node.runtime.destroy(box.sandbox_id)
    assert box.sandbox_id not in await node.runtime.leftovers()
