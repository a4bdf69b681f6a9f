"""Seats whose layers and cgroups a helper makes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.cubelet.cgroups.events import poll_until
from cube.cubelet.cgroups.files import read
from cube.helper.process import Helper
from cube.model.resources import Resources
from support.container_node import ContainerNode, container_node, sh

pytestmark = pytest.mark.root
#: See :class:`support.service.Service`; other files of this folder, which never run at the same time, have it too.
_PART = 6


@pytest.fixture
async def helper() -> AsyncIterator[Helper]:
    helper = Helper()
    helper.start()
    yield helper
    await asyncio.to_thread(helper.close)


@pytest.fixture
async def node(tmp_path: Path, helper: Helper) -> AsyncIterator[ContainerNode]:
    async with container_node(tmp_path, _PART, helper) as running:
        yield running


async def test_a_sandbox_has_its_limits_and_its_files(node: ContainerNode) -> None:
    spec = node.spec(resources=Resources(cpu_count=1, memory_mb=256, disk_mb=64, pids=77, open_files=1024))
    instance = await node.runtime.create(spec)
    assert await sh(instance, "cat /etc/resolv.conf") == f"nameserver {instance.seat.link.gateway}"
    assert len(await sh(instance, "cat /etc/machine-id")) == 32
    limits = {path: read(path).strip() for path in instance.seat.cgroup.written}
    assert [value for path, value in limits.items() if path.endswith("/pids.max")] == ["77"]
    assert (await node.runtime.stats(instance)).disk_bytes > 0
    await node.runtime.destroy(spec.sandbox_id)


async def test_sandboxes_go_on_when_it_dies(node: ContainerNode, helper: Helper) -> None:
    first = await node.runtime.create(node.spec())
    assert helper.pid is not None
    os.kill(helper.pid, signal.SIGKILL)
    assert await sh(first, "echo on") == "on"
    for _ in range(3):
        assert await sh(await node.runtime.create(node.spec()), "echo on") == "on"
    assert helper.pid is None


async def test_what_is_made_there_is_gone_with_the_sandbox(node: ContainerNode) -> None:
    spec = node.spec()
    seat = (await node.runtime.create(spec)).seat
    layer = seat.layer_name
    assert layer in node.runtime._volume.names()
    await node.runtime.destroy(spec.sandbox_id)
    assert await poll_until(lambda: layer not in node.runtime._volume.names(), 20)


def test_a_helper_does_without_what_settings_bring_along() -> None:
    """It is there for as long as the service is, on small machines too."""
    work = "import sys, cube.netagent.veth, cube.cubelet.runtime.container.seat_work"
    loaded = subprocess.check_output([sys.executable, "-c", f"{work}; print(*sys.modules)"], text=True).split()
    assert not {"pydantic", "structlog", "sqlalchemy", "cube.settings"} & set(loaded)
