"""The node agent: which sandboxes live on this machine, and the way to each of them.

The master decides, the runtime carries out; the cubelet in between knows what runs. It answers the master
(:class:`cube.cubelet.agent.NodeAgent`), gives envd its view of the running sandboxes
(:class:`cube.envd.sandboxes.EnvdSandboxes`), and notices when one dies by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, runtime_checkable

import structlog

from cube.cubelet.runtime.base import Instance, LocalGuest, Runtime
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import CubeError, SandboxNotFound, SandboxNotRunning, Unsupported
from cube.model.resources import ResourceUsage
from cube.model.sandbox import SandboxSpec
from cube.model.template import Template

log = structlog.get_logger(__name__)

#: Preparations at the same time: they load whole interpreters, and requests come first.
_PREPARED_AT_ONCE = 2
#: How many leftovers are removed at the same time after a restart.
_CLEANERS = 8


@runtime_checkable
class _Closable(Protocol):
    async def close(self) -> None: ...


@dataclass(slots=True)
class _Resident:
    """One sandbox on this node."""

    spec: SandboxSpec
    instance: Instance
    view: EnvdSandbox
    watcher: asyncio.Task[None]
    #: ``running``, ``paused`` or ``dead``: ended by itself and not destroyed yet.
    state: str


class Cubelet:
    """Use as an async context manager: leaving it lets go of the sandboxes without ending them."""

    def __init__(
        self,
        runtime: Runtime,
        templates: Callable[[], Sequence[Template]],
        *,
        prepare: Callable[[EnvdSandbox], Awaitable[None]] | None = None,
    ) -> None:
        """``prepare`` is run beside each new sandbox (pre-warming); its failure is logged and harms nothing."""
        self._runtime = runtime
        #: Name of the runtime that isolates the sandboxes of this node.
        self.runtime = runtime.name
        #: What that runtime can do.
        self.capabilities = runtime.capabilities
        self._templates = templates
        self._prepare = prepare
        self._preparing = asyncio.Semaphore(_PREPARED_AT_ONCE)
        self._residents: dict[str, _Resident] = {}
        self._death_callbacks: list[Callable[[str], None]] = []
        self._unreachable_callbacks: list[Callable[[str], None]] = []
        self._tasks = asyncio.TaskGroup()
        self._background: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Cubelet:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for resident in self._residents.values():
            resident.watcher.cancel()
        for task in self._background:
            task.cancel()
        # The group is told of no error, for it would wrap one that is not of its tasks.
        await self._tasks.__aexit__(None, None, None)
        for resident in list(self._residents.values()):
            await _close_drawers(resident.view)

    # -- the master's side ---------------------------------------------------------------------------------------

    async def create(self, spec: SandboxSpec) -> None:
        """Start a sandbox; returns when its inside answers. Leaves nothing behind when it fails or is cancelled."""
        instance = await self._runtime.create(spec)
        resident = self._admit(spec, instance, paused=False)
        if self._prepare is not None and spec.template.code_interpreter:
            self._beside(self._prepared(self._prepare, resident.view))

    async def destroy(self, sandbox_id: str) -> None:
        """End a sandbox and remove all that belongs to it; succeeds when there is none."""
        resident = self._residents.pop(sandbox_id, None)
        self._unreachable(sandbox_id)
        if resident is not None:
            resident.watcher.cancel()
        await self._runtime.destroy(sandbox_id)
        if resident is not None:
            await _close_drawers(resident.view)

    async def pause(self, sandbox_id: str) -> None:
        """Stop a running sandbox where it stands; raises ``SandboxNotFound``."""
        resident = self._resident(sandbox_id)
        self._unreachable(sandbox_id)
        await self._runtime.pause(resident.instance)
        resident.state = "paused"

    async def resume(self, sandbox_id: str) -> None:
        """Let a paused sandbox go on; raises ``SandboxNotFound``."""
        resident = self._resident(sandbox_id)
        await self._runtime.resume(resident.instance)
        resident.state = "running"

    async def stats(self, sandbox_id: str) -> ResourceUsage:
        """What it uses now; raises ``SandboxNotFound``."""
        return await self._runtime.stats(self._resident(sandbox_id).instance)

    async def recover(self, specs: Sequence[tuple[SandboxSpec, bool]]) -> set[str]:
        """Take over what an earlier run of the service left running; (spec, paused) of all that should exist.

        Everything else that is found on the machine is ended and removed. Returns the ids that are alive.
        """
        for spec, paused in specs:
            try:
                instance = await self._runtime.adopt(spec, paused=paused)
            except SandboxNotFound:
                log.warning("sandbox.lost", sandbox=spec.sandbox_id)
                continue
            self._admit(spec, instance, paused=paused)
        await self._remove_leftovers()
        return set(self._residents)

    def on_death(self, callback: Callable[[str], None]) -> None:
        """``callback`` is called on the loop with the id of a sandbox that ended by itself; it is to be destroyed."""
        self._death_callbacks.append(callback)

    def on_unreachable(self, callback: Callable[[str], None]) -> None:
        """``callback`` is called with the id of a sandbox before it is paused or ended, and after it died.

        What leads to its address must then be forgotten, for another sandbox may get it.
        """
        self._unreachable_callbacks.append(callback)

    def templates(self) -> Sequence[Template]:
        """Templates whose image is on this node."""
        return self._templates()

    # -- envd's side ---------------------------------------------------------------------------------------------

    async def get(self, sandbox_id: str) -> EnvdSandbox:
        """The running sandbox; raises ``SandboxNotFound`` or ``SandboxNotRunning``."""
        resident = self._resident(sandbox_id)
        if resident.state != "running":
            raise SandboxNotRunning(sandbox_id, resident.state)
        return resident.view

    def running(self) -> Iterable[EnvdSandbox]:
        """All that run now."""
        return [resident.view for resident in self._residents.values() if resident.state == "running"]

    async def usage(self, sandbox_id: str) -> ResourceUsage:
        """What it uses now; raises like :meth:`get`."""
        return await self.stats(sandbox_id)

    def address(self, sandbox_id: str) -> str | None:
        """Address of the sandbox on its link, ``None`` when no such sandbox runs here."""
        resident = self._residents.get(sandbox_id)
        return None if resident is None or resident.state != "running" else resident.instance.address

    # -- inside --------------------------------------------------------------------------------------------------

    def _resident(self, sandbox_id: str) -> _Resident:
        try:
            return self._residents[sandbox_id]
        except KeyError:
            raise SandboxNotFound(sandbox_id) from None

    def _unreachable(self, sandbox_id: str) -> None:
        for callback in self._unreachable_callbacks:
            callback(sandbox_id)

    def _admit(self, spec: SandboxSpec, instance: Instance, *, paused: bool) -> _Resident:
        view = _view(spec, instance)
        watcher = self._tasks.create_task(self._watch(spec.sandbox_id, instance))
        resident = _Resident(spec, instance, view, watcher, "paused" if paused else "running")
        self._residents[spec.sandbox_id] = resident
        return resident

    async def _watch(self, sandbox_id: str, instance: Instance) -> None:
        """Report a death; whoever hears of it has the remains destroyed."""
        await instance.died()
        log.warning("sandbox.died", sandbox=sandbox_id)
        self._residents[sandbox_id].state = "dead"
        self._unreachable(sandbox_id)
        for callback in self._death_callbacks:
            callback(sandbox_id)

    def _beside(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = self._tasks.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _prepared(self, prepare: Callable[[EnvdSandbox], Awaitable[None]], view: EnvdSandbox) -> None:
        try:
            async with self._preparing:
                await prepare(view)
        except CubeError as error:
            log.info("sandbox.prepare_failed", sandbox=view.sandbox_id, reason=error.message)

    async def _remove_leftovers(self) -> None:
        gate = asyncio.Semaphore(_CLEANERS)

        async def remove(sandbox_id: str) -> None:
            async with gate:
                await self._runtime.destroy(sandbox_id)

        async with asyncio.TaskGroup() as group:
            for sandbox_id in await self._runtime.leftovers() - set(self._residents):
                log.info("sandbox.leftover", sandbox=sandbox_id)
                group.create_task(remove(sandbox_id))


def _view(spec: SandboxSpec, instance: Instance) -> EnvdSandbox:
    if not isinstance(instance.envd, LocalGuest):
        raise Unsupported("this node relays no envd from inside a sandbox yet")
    image = spec.template.config
    return EnvdSandbox(
        sandbox_id=spec.sandbox_id,
        guest=instance.envd.guest,
        access_token=spec.envd_access_token,
        default_user=image.user,
        default_workdir=image.workdir,
        env_vars={**image.env, **spec.env_vars},
        image=image,
        resources=spec.resources,
        code_interpreter=spec.template.code_interpreter,
    )


async def _close_drawers(view: EnvdSandbox) -> None:
    """Close what envd and the interpreter kept for a sandbox that has ended."""
    for drawer in list(view.state.values()):
        if isinstance(drawer, _Closable):
            await drawer.close()
    view.state.clear()
