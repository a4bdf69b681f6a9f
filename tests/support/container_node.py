"""A container runtime of a test's own on this machine, over the minimal template; it can be started again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from cube.cubelet.runtime.container.instance import ContainerInstance
from cube.cubelet.runtime.container.runtime import ContainerRuntime
from cube.cubelet.storage.images import ImageStore
from cube.envd.guest import ExitStatus, SpawnRequest
from cube.helper.process import Caller
from cube.model.ids import new_sandbox_id
from cube.model.resources import Resources
from cube.model.sandbox import SandboxSpec
from cube.settings import Settings
from support import slots
from support.images import MINIMAL_ID, build_test_template
from support.inside_sandbox import read_to_end, release

SMALL = Resources(cpu_count=1, memory_mb=256, disk_mb=256, pids=128, open_files=1024)


class ContainerNode:
    """``runtime`` over the images of an instance; ``part`` as for :class:`support.service.Service`."""

    def __init__(self, directory: Path, part: int, helper: Caller | None = None, most_seats: int = 1) -> None:
        self._helper = helper
        self.settings = Settings(
            instance=slots.instance(part),
            state_dir=directory / "state",
            run_dir=directory / "run",
            network_cidr=slots.network(part),
            id_base=0x7000_0000 + slots.slot() * 0x0100_0000,
            volume_gb=2,
            seat_pool=1,
            seat_pool_max=most_seats,
        )
        build_test_template(self.settings.templates_dir)
        self.runtime: ContainerRuntime

    async def start(self) -> None:
        """Start a runtime, as the service does when it comes up."""
        images = ImageStore(self.settings)
        images.load()
        self.runtime = ContainerRuntime(self.settings, images, helper=self._helper)
        await self.runtime.start()

    async def restart(self) -> None:
        """Stop the runtime as the end of the service does, and start another one."""
        await self.runtime.close()
        await self.start()

    def spec(self, snapshot_id: str | None = None, **changes: object) -> SandboxSpec:
        """A new sandbox from the minimal template, or from a snapshot."""
        template = ImageStore(self.settings)
        template.load()
        spec = SandboxSpec(new_sandbox_id(), template.get(MINIMAL_ID), SMALL, snapshot_id=snapshot_id)
        return replace(spec, **changes)  # type: ignore[arg-type]


async def sh(instance: ContainerInstance, script: str, user: str = "root") -> str:
    """What a shell script inside writes; it must succeed."""
    process = await instance.guest.spawn(SpawnRequest(("/bin/bash", "-c", f"exec 2>&1; {script}"), user))
    output = await asyncio.to_thread(read_to_end, process.stdout)
    status = await process.wait()
    release(process)
    assert status == ExitStatus(0), (status, output)
    return output.rstrip("\n")


@asynccontextmanager
async def container_node(
    directory: Path, part: int, helper: Caller | None = None, most_seats: int = 1
) -> AsyncIterator[ContainerNode]:
    """A node that runs; at the end nothing of it is left but snapshots."""
    node = ContainerNode(directory, part, helper, most_seats)
    await node.start()
    try:
        yield node
    finally:
        await node.runtime.remove()
        await asyncio.to_thread(_clear, node.settings)


def _clear(settings: Settings) -> None:
    """What is left after the end of every sandbox: the volume, where snapshots are in it."""
    (settings.state_dir / "volume.img").unlink(missing_ok=True)
    assert not os.path.ismount(settings.volume_dir)
