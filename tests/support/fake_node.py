"""A node without a machine: it keeps the contract of ``NodeAgent`` and does what a test tells it.

The decisions of the master are under test with it, never isolation: that is tested against real sandboxes elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from cube.cubelet.agent import Recovered
from cube.cubelet.runtime.base import Capabilities
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import SandboxNotFound, SandboxNotRunning, SnapshotNotFound
from cube.model.network import NetworkConfig
from cube.model.resources import Resources, ResourceUsage
from cube.model.sandbox import Condition, SandboxSpec
from cube.model.template import ImageConfig, Template
from support.fake_volumes import FakeVolumes

BASE = Template(
    template_id="tpl-base",
    names=("base",),
    image="image.erofs",
    image_bytes=4096,
    fingerprint="sha256:0",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    config=ImageConfig(env={"LANG": "C.UTF-8"}, user="user", workdir="/home/user", sudo_users=("user",)),
    resources=Resources(cpu_count=1, memory_mb=256),
)
INTERPRETER = Template(
    template_id="tpl-code",
    names=("code-interpreter-v1", "team/code:v2"),
    image="image.erofs",
    image_bytes=8192,
    fingerprint="sha256:1",
    created_at=datetime(2026, 2, 1, tzinfo=UTC),
    code_interpreter=True,
)


class FakeNode:
    """Sandboxes are entries of a dictionary: ``alive[id]`` is the condition that it is in."""

    def __init__(self) -> None:
        self.runtime = "fake"
        self.capabilities = Capabilities(
            isolation="none",
            pause=True,
            pause_frees_memory=False,
            filesystem_snapshot=True,
            memory_snapshot=False,
            volumes=True,
        )
        self.volumes = FakeVolumes()
        self.alive: dict[str, Condition] = {}
        #: What each snapshot was taken of.
        self.snapshots: dict[str, str] = {}
        #: Whether memory was asked for, call by call.
        self.memory_captured: list[bool] = []
        self.memory_resumed: list[bool] = []
        self.specs: dict[str, SandboxSpec] = {}
        #: Every call as (method, sandbox id), in order.
        self.calls: list[tuple[str, str]] = []
        #: Ids that are offered.
        self.stocked: list[str] = []
        #: Failures to raise, per method, first one first.
        self.failures: dict[str, list[Exception]] = {}
        #: A method waits at its gate, when it has one, before it takes effect.
        self.gates: dict[str, asyncio.Event] = {}
        self.cpu_seconds = 0.0
        self.template_list: list[Template] = [BASE, INTERPRETER]
        self._death: list[Callable[[str], None]] = []
        self._called = asyncio.Condition()

    def offer(self, spec: SandboxSpec) -> str | None:
        return self.stocked.pop() if self.stocked else None

    async def create(self, spec: SandboxSpec) -> None:
        await self._enter("create", spec.sandbox_id)
        if spec.snapshot_id is not None and spec.snapshot_id not in self.snapshots:
            raise SnapshotNotFound(spec.snapshot_id)
        self.alive[spec.sandbox_id] = Condition.RUNNING
        self.specs[spec.sandbox_id] = spec

    async def begin(self, sandbox_id: str) -> None:
        await self._enter("begin", sandbox_id)
        self._require(sandbox_id)

    async def get(self, sandbox_id: str) -> EnvdSandbox:
        """Nothing runs in sandboxes that are entries of a dictionary."""
        raise SandboxNotRunning(sandbox_id, "pretended")

    async def destroy(self, sandbox_id: str) -> None:
        await self._enter("destroy", sandbox_id)
        self.alive.pop(sandbox_id, None)

    async def pause(self, sandbox_id: str, *, memory: bool = True) -> None:
        await self._enter("pause", sandbox_id)
        self._require(sandbox_id)
        self.alive[sandbox_id] = Condition.PAUSED if memory else Condition.STOPPED

    async def resume(self, sandbox_id: str, *, memory: bool = True) -> None:
        self.memory_resumed.append(memory)
        await self._enter("resume", sandbox_id)
        self._require(sandbox_id)
        self.alive[sandbox_id] = Condition.RUNNING

    async def snapshot(self, sandbox_id: str, snapshot_id: str, *, memory: bool) -> None:
        self.memory_captured.append(memory)
        await self._enter("snapshot", sandbox_id)
        self._require(sandbox_id)
        self.snapshots[snapshot_id] = sandbox_id

    async def rollback(self, sandbox_id: str, snapshot_id: str) -> None:
        await self._enter("rollback", sandbox_id)
        self._require(sandbox_id)
        if snapshot_id not in self.snapshots:
            raise SnapshotNotFound(snapshot_id)

    async def delete_snapshot(self, snapshot_id: str) -> None:
        await self._enter("delete_snapshot", snapshot_id)
        self.snapshots.pop(snapshot_id, None)

    async def update_network(self, sandbox_id: str, network: NetworkConfig) -> None:
        await self._enter("update_network", sandbox_id)
        self._require(sandbox_id)
        self.specs[sandbox_id] = replace(self.specs[sandbox_id], network=network)

    async def stats(self, sandbox_id: str) -> ResourceUsage:
        await self._enter("stats", sandbox_id)
        self._require(sandbox_id)
        return ResourceUsage(self.cpu_seconds, memory_bytes=1 << 20, memory_cache_bytes=0, disk_bytes=4096, pids=1)

    async def recover(
        self, sandboxes: Sequence[tuple[SandboxSpec, Condition]], snapshots: Collection[str]
    ) -> Recovered:
        listed = {spec.sandbox_id: (spec, wanted) for spec, wanted in sandboxes}
        kept = {key: condition for key, condition in self.alive.items() if key in listed}
        stopped = {key: condition for key, condition in kept.items() if condition is Condition.STOPPED}
        self.alive = {key: listed[key][1] for key in kept} | stopped
        self.specs = {key: listed[key][0] for key in self.alive}
        self.snapshots = {key: origin for key, origin in self.snapshots.items() if key in snapshots}
        return Recovered(dict(self.alive), set(self.snapshots))

    def on_death(self, callback: Callable[[str], None]) -> None:
        self._death.append(callback)

    def templates(self) -> Sequence[Template]:
        return self.template_list

    # -- for tests -----------------------------------------------------------------------------------------------

    def capabilities_with_memory(self) -> Capabilities:
        """Those of a runtime that captures memory."""
        return replace(self.capabilities, memory_snapshot=True)

    def capabilities_without_snapshots(self) -> Capabilities:
        """Those of a runtime that captures nothing."""
        return replace(self.capabilities, filesystem_snapshot=False)

    def close_gate(self, method: str) -> asyncio.Event:
        """Make calls of a method wait until the returned event is set."""
        return self.gates.setdefault(method, asyncio.Event())

    def fail(self, method: str, *errors: Exception) -> None:
        """Let the next calls of a method fail."""
        self.failures.setdefault(method, []).extend(errors)

    def die(self, sandbox_id: str) -> None:
        """End a sandbox from inside."""
        del self.alive[sandbox_id]
        for callback in self._death:
            callback(sandbox_id)

    async def called(self, method: str, times: int = 1) -> str:
        """Wait until a method has been called that often; the sandbox id of that call."""
        async with self._called:
            await self._called.wait_for(lambda: len(self.calls_of(method)) >= times)
        return self.calls_of(method)[times - 1]

    def calls_of(self, method: str) -> list[str]:
        """Sandbox ids of the calls of a method."""
        return [sandbox_id for name, sandbox_id in self.calls if name == method]

    async def _enter(self, method: str, sandbox_id: str) -> None:
        self.calls.append((method, sandbox_id))
        async with self._called:
            self._called.notify_all()
        if method in self.gates:
            await self.gates[method].wait()
        if self.failures.get(method):
            raise self.failures[method].pop(0)

    def _require(self, sandbox_id: str) -> None:
        if sandbox_id not in self.alive:
            raise SandboxNotFound(sandbox_id)
