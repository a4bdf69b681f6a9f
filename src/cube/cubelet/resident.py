"""One sandbox of a node, and what the node keeps for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import structlog

from cube.cubelet.runtime.base import Inheriting, Instance, LocalGuest
from cube.envd import survival
from cube.envd.guest import LastingGuest
from cube.envd.interpreter import handover
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import CubeError, SandboxNotRunning, Unsupported
from cube.model.sandbox import Condition, SandboxSpec

log = structlog.get_logger(__name__)

#: State of a sandbox that ended by itself.
DEAD = "dead"


@runtime_checkable
class _Closable(Protocol):
    async def close(self) -> None: ...


@runtime_checkable
class _Renewable(Protocol):
    async def renew(self) -> None:
        """The variables of the sandbox have changed."""
        ...


@dataclass(slots=True)
class Resident:
    """One sandbox on this node."""

    spec: SandboxSpec
    #: What runs, or what can still die of a paused one; ``None`` where nothing does.
    instance: Instance | None = None
    #: What envd sees of it; ``None`` while it has no processes.
    view: EnvdSandbox | None = None
    watcher: asyncio.Task[None] | None = None
    #: A :class:`Condition`, or ``dead``: ended by itself and not destroyed yet.
    state: str = Condition.STOPPED
    #: Whether what is run beside a new sandbox has come to its end.
    prepared: bool = False

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.state == Condition.RUNNING

    def started(self, instance: Instance) -> None:
        """Note that it runs, with processes that have just begun."""
        self.view = view_of(self.spec, instance)
        self.instance, self.state, self.prepared = instance, Condition.RUNNING, False

    async def take_up(self) -> bool:
        """Have envd follow what began before this service knew it; ``False`` when nothing did. What cannot be followed
        is let go of, and logged."""
        instance = self.instance
        if self.view is None or not isinstance(instance, Inheriting) or instance.inherited is None:
            return False
        try:
            await survival.take_up(self.view, instance.inherited or None)
        except CubeError as error:
            log.warning("sandbox.not_taken_up", sandbox=self.spec.sandbox_id, reason=error.message)
        return True

    def contexts(self) -> Mapping[str, Any] | None:
        """What its interpreter has, for a copy of its memory; ``None`` where kernels do not outlive a connection."""
        if self.view is None or not isinstance(self.view.guest, LastingGuest):
            return None
        return handover.describe(self.view)

    def running(self) -> Instance:
        """What runs; raises ``SandboxNotRunning``."""
        if self.instance is None or not self.alive:
            raise SandboxNotRunning(self.spec.sandbox_id, self.state)
        return self.instance

    def unwatch(self) -> None:
        """Its end is no news any more."""
        if self.watcher is not None:
            self.watcher.cancel()
            self.watcher = None

    async def give(self, spec: SandboxSpec) -> bool:
        """Give a sandbox that was started as a plain one what its client has chosen: tokens and variables.

        Returns whether it has to be prepared again, because what was prepared had other variables.
        """
        started, self.spec = self.spec, spec
        if self.view is None:
            return False
        self.view.access_token, self.view.env_vars = spec.envd_access_token, _variables(spec)
        if spec.env_vars == started.env_vars:
            return False
        for drawer in list(self.view.state.values()):
            if isinstance(drawer, _Renewable):
                await drawer.renew()
        return True

    async def stopped(self) -> None:
        """Note that nothing of it runs any more."""
        self.instance, self.state = None, Condition.STOPPED
        await self.forget_processes()

    async def forget_processes(self) -> None:
        """Forget what envd has of processes that were ended on purpose."""
        await self.close_drawers()
        self.view = None

    async def close_drawers(self) -> None:
        """Close what envd and the interpreter kept for processes that have ended."""
        if self.view is None:
            return
        for drawer in list(self.view.state.values()):
            if isinstance(drawer, _Closable):
                await drawer.close()
        self.view.state.clear()


def view_of(spec: SandboxSpec, instance: Instance) -> EnvdSandbox:
    """What envd sees of a sandbox; raises ``Unsupported``."""
    if not isinstance(instance.envd, LocalGuest):
        raise Unsupported("this node relays no envd from inside a sandbox yet")
    image = spec.template.config
    return EnvdSandbox(
        sandbox_id=spec.sandbox_id,
        guest=instance.envd.guest,
        access_token=spec.envd_access_token,
        default_user=image.user,
        default_workdir=image.workdir,
        env_vars=_variables(spec),
        image=image,
        resources=spec.resources,
        code_interpreter=spec.template.code_interpreter,
    )


def _variables(spec: SandboxSpec) -> dict[str, str]:
    return {**spec.template.config.env, **spec.env_vars}
