"""A node whose runtime is QEMU, for one test; the captured template and the boot files are kept between runs."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from cube.cubelet.runtime.microvm.accelerator import Verdict
from cube.cubelet.runtime.microvm.instance import MicroVMInstance
from cube.cubelet.runtime.microvm.runtime import MicroVMRuntime
from cube.cubelet.storage.images import ImageStore
from cube.envd.guest import SpawnRequest
from cube.model.ids import new_sandbox_id
from cube.model.sandbox import Condition, SandboxSpec
from cube.model.template import Template
from cube.settings import Settings
from support import images, slots
from support.images import CACHE, build_test_template
from support.inside_sandbox import read_to_end, release

#: Another one in every folder of tests that starts services, see :mod:`support.service`.
PART = 9
#: What runs in the guests: programs of the template ``minimal``.
SHELL = "/bin/sh"
_EMULATED = Verdict(False, "the tests do not ask")


def keep_between_runs(state: Path) -> Path:
    """Have a state directory, made if need be, use what earlier runs have made: it takes longer than the tests. Returns
    where templates are.

    Captures have their ingredients in their names, so those of another checkout are not mistaken for ours.
    """
    made_by = hashlib.sha256(Path(images.__file__).read_bytes()).hexdigest()[:12]
    kept = CACHE / "microvm" / made_by
    state.mkdir(parents=True, exist_ok=True)
    for name in ("templates", "boot", "vm"):
        (kept / name).mkdir(parents=True, exist_ok=True)
        (state / name).symlink_to(kept / name)
    return kept / "templates"


@dataclass
class VmNode:
    """The runtime, and shortcuts for what tests do with it."""

    settings: Settings
    images: ImageStore
    template: Template
    runtime: MicroVMRuntime
    made: list[str] = field(default_factory=list)

    def spec(self, snapshot_id: str | None = None) -> SandboxSpec:
        spec = SandboxSpec(new_sandbox_id(), self.template, self.template.resources, snapshot_id=snapshot_id)
        self.made.append(spec.sandbox_id)
        return spec

    async def create(self, snapshot_id: str | None = None) -> MicroVMInstance:
        return await self.runtime.create(self.spec(snapshot_id))

    def again(self) -> VmNode:
        """The runtime of a service that is started anew."""
        return VmNode(self.settings, self.images, self.template, _runtime(self.settings, self.images), self.made)

    async def adopt(self, spec: SandboxSpec, wanted: Condition) -> MicroVMInstance:
        found = await self.runtime.adopt(spec, wanted)
        assert found.condition is wanted
        return cast(MicroVMInstance, found.instance)

    def layer(self, instance: MicroVMInstance) -> Path:
        """The directory of its files."""
        return self.settings.volume_dir / "layers" / instance.sandbox_id


async def run(instance: MicroVMInstance, script: str, user: str = "root") -> str:
    """What a shell script in the guest writes, errors too."""
    process = await instance.guest.spawn(SpawnRequest((SHELL, "-c", f"exec 2>&1; {script}"), user))
    output = await asyncio.to_thread(read_to_end, process.stdout)
    await process.wait()
    release(process)
    return output.strip()


def _runtime(settings: Settings, store: ImageStore) -> MicroVMRuntime:
    return MicroVMRuntime(settings, store, _EMULATED)


@asynccontextmanager
async def vm_node(directory: Path, **changes: object) -> AsyncIterator[VmNode]:
    """Started; everything is taken away at the end, and that nothing is left of it is checked."""
    state = directory / "state"
    keep_between_runs(state)
    settings = Settings(
        instance=slots.instance(PART),
        network_cidr=slots.network(PART),
        state_dir=state,
        run_dir=directory / "run",
        volume_gb=4,
        seat_pool=2,
        seat_pool_max=2,
        **changes,  # type: ignore[arg-type]
    )
    store = ImageStore(settings)
    store.load()
    template = next((one for one in store.templates() if "minimal" in one.names), None)
    node = VmNode(settings, store, template or build_test_template(settings.templates_dir), _runtime(settings, store))
    store.load()
    await node.runtime.start()
    try:
        yield node
    finally:
        await node.runtime.close()
        await _runtime(settings, store).remove()
        assert not _traces(settings.instance)


def _traces(instance: str) -> list[str]:
    interfaces = [name for name in os.listdir("/sys/class/net") if name.startswith(f"{instance}-")]
    return interfaces + [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{instance}")]
