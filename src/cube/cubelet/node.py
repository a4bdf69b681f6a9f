"""The node agent: which sandboxes live on this machine, and the way to each of them.

The master decides, the runtime carries out; the cubelet in between knows what runs. It answers the master
(:class:`cube.cubelet.agent.NodeAgent`), gives envd its view of the running sandboxes
(:class:`cube.envd.sandboxes.EnvdSandboxes`), and notices when one dies by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType

import structlog

from cube.cubelet.agent import NodeVolumes, Recovered
from cube.cubelet.deaths import Callback, Deaths
from cube.cubelet.preparation import Preparation, Prepare
from cube.cubelet.resident import DEAD, Resident, view_of
from cube.cubelet.runtime.base import Found, Instance, Runtime
from cube.cubelet.start_command import run_start_command
from cube.cubelet.stock import Bounds, Maker, Stock
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import CubeError, SandboxNotFound, SandboxNotRunning, SandboxStopped, Unsupported
from cube.model.network import NetworkConfig
from cube.model.resources import ResourceUsage
from cube.model.sandbox import Condition, SandboxSpec
from cube.model.template import Template
from cube.netagent.agent import NetworkAgent

log = structlog.get_logger(__name__)

#: How many leftovers are removed at the same time after a restart.
_CLEANERS = 8


class Cubelet:
    """Use as an async context manager: leaving it lets go of the sandboxes without ending them."""

    def __init__(
        self,
        runtime: Runtime,
        templates: Callable[[], Sequence[Template]],
        *,
        volumes: NodeVolumes,
        prepare: Prepare | None = None,
        stock: Bounds | None = None,
        network: NetworkAgent | None = None,
    ) -> None:
        """``prepare`` is run beside each new sandbox (pre-warming); its failure is logged and harms nothing. With
        ``stock`` sandboxes are started and prepared before they are asked for.

        ``network`` is the one that the runtime puts its sandboxes on.
        """
        self._runtime = runtime
        #: Name of the runtime that isolates the sandboxes of this node.
        self.runtime = runtime.name
        #: What that runtime can do.
        self.capabilities = runtime.capabilities
        #: The volumes that sandboxes can mount.
        self.volumes = volumes
        self._templates = templates
        self._preparation = Preparation(prepare)
        self._network = network
        self._residents: dict[str, Resident] = {}
        self._tasks = asyncio.TaskGroup()
        self._deaths = Deaths(self._tasks)
        self._background: set[asyncio.Task[None]] = set()
        maker = Maker(self._start_ahead, self._preparation.of, self._end, templates)
        self._stock = Stock(stock, maker) if stock is not None and stock.high > 0 else None

    async def __aenter__(self) -> Cubelet:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for resident in self._residents.values():
            resident.unwatch()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._stock is not None:
            await self._stock.close()
        # The group is told of no error, for it would wrap one that is not of its tasks.
        await self._tasks.__aexit__(None, None, None)
        for resident in list(self._residents.values()):
            await resident.close_drawers()

    # -- the master's side ---------------------------------------------------------------------------------------

    def offer(self, spec: SandboxSpec) -> str | None:
        """Id of a sandbox in stock that fits. See :class:`NodeAgent`."""
        return None if self._stock is None else self._stock.offer(spec)

    async def create(self, spec: SandboxSpec) -> None:
        """Start a sandbox, or hand out the one that was offered under its id; returns when its inside answers.

        Leaves nothing behind when it fails or is cancelled.
        """
        taken = self._taken(spec.sandbox_id)
        if taken is not None and taken.alive:
            await self._hand_out(taken, spec)
            return
        if taken is not None:
            await self._end(taken)
        resident = Resident(spec)
        self._start(resident, await self._runtime.create(spec))
        await resident.take_up()
        self._residents[spec.sandbox_id] = resident
        self._prepare_beside(resident)

    async def begin(self, sandbox_id: str) -> None:
        """Run the start command of its template. See :class:`NodeAgent`."""
        start = self._resident(sandbox_id).spec.template.start
        if start is not None:
            await run_start_command(await self.get(sandbox_id), start)

    async def destroy(self, sandbox_id: str) -> None:
        """End a sandbox and remove all that belongs to it; succeeds when there is none."""
        resident = self._residents.pop(sandbox_id, None) or self._taken(sandbox_id)
        self._deaths.unreachable(sandbox_id)
        if resident is not None:
            await self._end(resident)
        else:
            await self._runtime.destroy(sandbox_id)

    async def pause(self, sandbox_id: str, *, memory: bool = True) -> None:
        """Stop a running sandbox where it stands, or keep its files alone. See :class:`NodeAgent`."""
        resident = self._resident(sandbox_id)
        instance = resident.running()
        self._deaths.unreachable(sandbox_id)
        async with self._deaths.expected(resident):
            resident.instance = await self._runtime.pause(instance, memory=memory)
            resident.state = Condition.PAUSED if memory else Condition.STOPPED
        if not memory:
            await resident.forget_processes()

    async def resume(self, sandbox_id: str, *, memory: bool = True) -> None:
        """Let a paused or stopped sandbox run again. See :class:`NodeAgent`."""
        resident = self._resident(sandbox_id)
        anew = not memory or resident.state == Condition.STOPPED
        async with self._deaths.expected(resident):
            instance = await self._runtime.resume(resident.spec, resident.instance, memory=memory)
            if instance is resident.instance:
                resident.state = Condition.RUNNING
                return
            resident.instance = None
        await resident.forget_processes()
        self._start(resident, instance)
        if not await resident.take_up() and anew:
            await self._begin_again(resident)
        self._prepare_beside(resident)

    async def snapshot(self, sandbox_id: str, snapshot_id: str, *, memory: bool) -> None:
        """Capture a sandbox. See :class:`NodeAgent`."""
        resident = self._resident(sandbox_id)
        if resident.state == DEAD:
            raise SandboxNotRunning(sandbox_id, resident.state)
        contexts = resident.contexts() if memory else None
        await self._runtime.snapshot(resident.spec, resident.instance, snapshot_id, memory=memory, contexts=contexts)

    async def rollback(self, sandbox_id: str, snapshot_id: str) -> None:
        """Replace what a running sandbox is by what a snapshot holds. See :class:`NodeAgent`."""
        resident = self._resident(sandbox_id)
        instance = resident.running()
        async with self._deaths.expected(resident):
            await self._runtime.rollback(resident.spec, instance, snapshot_id)
            resident.instance, resident.state = None, Condition.STOPPED
        self._deaths.unreachable(sandbox_id)
        await resident.forget_processes()
        try:
            self._start(resident, await self._runtime.resume(resident.spec, None, memory=True))
        except CubeError as error:
            raise SandboxStopped(
                f"the sandbox was rolled back but could not be started: {error.message}", cause=error
            ) from error
        if not await resident.take_up():
            await self._begin_again(resident)
        self._prepare_beside(resident)

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; succeeds when there is none."""
        await self._runtime.delete_snapshot(snapshot_id)

    async def update_network(self, sandbox_id: str, network: NetworkConfig) -> None:
        """Replace what a sandbox may reach. See :class:`NodeAgent`."""
        resident = self._resident(sandbox_id)
        if self._network is None:
            raise Unsupported("this node has no network to change")
        with suppress(SandboxNotFound):  # it is on no link while it has no processes
            await self._network.update(sandbox_id, network)
        resident.spec = replace(resident.spec, network=network)

    async def stats(self, sandbox_id: str) -> ResourceUsage:
        """What it uses now; raises ``SandboxNotFound``, ``SandboxNotRunning``."""
        resident = self._resident(sandbox_id)
        if resident.instance is None:
            raise SandboxNotRunning(sandbox_id, resident.state)
        return await self._runtime.stats(resident.instance)

    async def recover(
        self, sandboxes: Sequence[tuple[SandboxSpec, Condition]], snapshots: Collection[str]
    ) -> Recovered:
        """Take over what an earlier run of the service left. See :class:`NodeAgent`."""
        for spec, wanted in sandboxes:
            try:
                found = await self._runtime.adopt(spec, wanted)
            except SandboxNotFound:
                log.warning("sandbox.lost", sandbox=spec.sandbox_id)
                continue
            await self._admit(spec, found)
        await self._remove_leftovers()
        if self._network is not None:
            await self._network.forget_others()
        present = await self._runtime.snapshots()
        for snapshot_id in present - set(snapshots):
            log.info("snapshot.leftover", snapshot=snapshot_id)
            await self._runtime.delete_snapshot(snapshot_id)
        if self._stock is not None:
            self._beside(self._stock.keep())
        alive = {sandbox_id: Condition(resident.state) for sandbox_id, resident in self._residents.items()}
        return Recovered(alive, present & set(snapshots))

    def on_death(self, callback: Callback) -> None:
        """``callback`` is called on the loop with the id of a sandbox that ended by itself; it is to be destroyed."""
        self._deaths.on_death(callback)

    def on_unreachable(self, callback: Callback) -> None:
        """``callback`` is called with the id of a sandbox before it is paused or ended, and after it died.

        What leads to its address must then be forgotten, for another sandbox may get it.
        """
        self._deaths.on_unreachable(callback)

    def templates(self) -> Sequence[Template]:
        """Templates whose image is on this node."""
        return self._templates()

    # -- envd's side ---------------------------------------------------------------------------------------------

    async def get(self, sandbox_id: str) -> EnvdSandbox:
        """The running sandbox; raises ``SandboxNotFound`` or ``SandboxNotRunning``."""
        resident = self._resident(sandbox_id)
        if resident.state != Condition.RUNNING or resident.view is None:
            raise SandboxNotRunning(sandbox_id, resident.state)
        return resident.view

    def running(self) -> Iterable[EnvdSandbox]:
        """All that run now."""
        running = (resident for resident in self._residents.values() if resident.state == Condition.RUNNING)
        return [resident.view for resident in running if resident.view is not None]

    async def usage(self, sandbox_id: str) -> ResourceUsage:
        """What it uses now; raises like :meth:`get`."""
        return await self.stats(sandbox_id)

    def address(self, sandbox_id: str) -> str | None:
        """Address of the sandbox on its link, ``None`` when no such sandbox runs here."""
        resident = self._residents.get(sandbox_id)
        if resident is None or resident.instance is None or resident.state != Condition.RUNNING:
            return None
        return resident.instance.address

    # -- inside --------------------------------------------------------------------------------------------------

    def _resident(self, sandbox_id: str) -> Resident:
        try:
            return self._residents[sandbox_id]
        except KeyError:
            raise SandboxNotFound(sandbox_id) from None

    async def _admit(self, spec: SandboxSpec, found: Found) -> None:
        view = None if found.instance is None else view_of(spec, found.instance)
        resident = Resident(spec, found.instance, view, None, found.condition)
        self._deaths.watch(resident)
        await resident.take_up()
        self._residents[spec.sandbox_id] = resident

    def _start(self, resident: Resident, instance: Instance) -> None:
        """Note that a sandbox runs whose processes have just begun."""
        resident.started(instance)
        self._deaths.watch(resident)

    async def _end(self, resident: Resident) -> None:
        resident.unwatch()
        await self._runtime.destroy(resident.spec.sandbox_id)
        await resident.close_drawers()

    # -- the stock -----------------------------------------------------------------------------------------------

    def _taken(self, sandbox_id: str) -> Resident | None:
        """The sandbox in stock that was offered under this id."""
        return None if self._stock is None else self._stock.take(sandbox_id)

    async def _start_ahead(self, spec: SandboxSpec) -> Resident:
        resident = Resident(spec)
        self._start(resident, await self._runtime.create(spec, ahead=True))
        await resident.take_up()
        return resident

    async def _hand_out(self, resident: Resident, spec: SandboxSpec) -> None:
        """Give a sandbox in stock what its client has chosen."""
        try:
            await self._runtime.hand_out(resident.running())
        except BaseException:
            await asyncio.shield(self._end(resident))
            raise
        self._residents[spec.sandbox_id] = resident
        if await resident.give(spec):
            self._prepare_beside(resident)

    # -- beside --------------------------------------------------------------------------------------------------

    def _prepare_beside(self, resident: Resident) -> None:
        if self._preparation.worthwhile(resident):
            self._beside(self._preparation.of(resident))

    async def _begin_again(self, resident: Resident) -> None:
        """Run the start command in a sandbox whose processes begin anew. It is there, whatever becomes of that."""
        sandbox_id = resident.spec.sandbox_id
        try:
            await self.begin(sandbox_id)
        except CubeError as error:
            log.warning("sandbox.start_command_failed", sandbox=sandbox_id, reason=error.message)

    def _beside(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = self._tasks.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _remove_leftovers(self) -> None:
        gate = asyncio.Semaphore(_CLEANERS)

        async def remove(sandbox_id: str) -> None:
            async with gate:
                await self._runtime.destroy(sandbox_id)

        async with asyncio.TaskGroup() as group:
            for sandbox_id in await self._runtime.leftovers() - set(self._residents):
                log.info("sandbox.leftover", sandbox=sandbox_id)
                group.create_task(remove(sandbox_id))
