"""One build from its first step to its last, in a sandbox of its own that nobody else can find."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace

import structlog

from cube.cubelet.agent import NodeAgent
from cube.cubelet.start_command import run_start_command
from cube.master.builds.cache import LayerCache
from cube.master.builds.layers import Layer, keys, reusable
from cube.master.builds.logs import BuildLog
from cube.master.builds.steps import carry_out
from cube.master.builds.surroundings import Surroundings
from cube.master.builds.uploads import Uploads
from cube.master.builds.workshop import StepFailed, Workshop
from cube.master.sandboxes.clock import Clock
from cube.master.sandboxes.registry import Origin
from cube.model.builds import BASE_STEP, FINAL_STEP, Build, Recipe, Step, StepKind
from cube.model.errors import CubeError
from cube.model.ids import new_sandbox_id, new_snapshot_id, new_token
from cube.model.resources import Resources
from cube.model.sandbox import SandboxSpec
from cube.model.snapshot import Snapshot
from cube.model.template import StartCommand, Template

log = structlog.get_logger(__name__)

#: The user that E2B's templates have.
_USER, _HOME = "user", "/home/user"
#: What is done first to an image that comes from elsewhere, as E2B does it.
AT_HOME = (Step(StepKind.USER, (_USER,)), Step(StepKind.WORKDIR, (_HOME,)))
#: Of the number of a user.
_DIGITS = 9
#: Seconds that the start command has at a build until it is ready.
_READY_S = 300.0


class BuildFailed(CubeError):
    """A step has failed; ``step`` is its number, or what :class:`cube.model.builds.Failure` has instead."""

    def __init__(self, message: str, step: str) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True, slots=True)
class Base:
    """What a build starts from."""

    origin: Origin
    #: What its files depend on: equal identities, equal files.
    identity: str
    #: Steps before the client's first one.
    before: tuple[Step, ...] = ()

    @property
    def template(self) -> Template:
        """The template below, whose start command is not the new one's."""
        return replace(self.origin.template, start=None)


class Runner:
    """Carries builds out. Whatever becomes of one, its sandbox is ended."""

    def __init__(self, node: NodeAgent, uploads: Uploads, cache: LayerCache, clock: Clock) -> None:
        self._node = node
        self._uploads = uploads
        self._cache = cache
        self._clock = clock

    async def build(self, build: Build, recipe: Recipe, base: Base, lines: BuildLog) -> Snapshot:
        """Carry out a recipe; returns what was made, which is on the node and not recorded yet.

        Raises ``BuildFailed``. Cancelled, it leaves nothing but layers that are whole.
        """
        return await _Work(self, build, recipe, base, lines).done()

    @asynccontextmanager
    async def sandbox(self, spec: SandboxSpec, layer: Layer | None) -> AsyncIterator[None]:
        """A sandbox for the time of a block, made of that layer."""
        async with nullcontext() if layer is None else self._cache.in_use(layer):
            try:
                await self._node.create(spec)
                yield
            finally:
                await asyncio.shield(self._node.destroy(spec.sandbox_id))

    @property
    def node(self) -> NodeAgent:
        """Where builds run."""
        return self._node

    @property
    def cache(self) -> LayerCache:
        """What earlier builds have made."""
        return self._cache

    @property
    def uploads(self) -> Uploads:
        """The files of COPY steps."""
        return self._uploads

    @property
    def clock(self) -> Clock:
        """What time it is."""
        return self._clock


class _Work:
    """One build under way."""

    def __init__(self, runner: Runner, build: Build, recipe: Recipe, base: Base, lines: BuildLog) -> None:
        self._runner = runner
        self._build = build
        self._base = base
        self._lines = lines
        self._start = recipe.start
        self._steps = (*base.before, *recipe.steps)
        self._keys = tuple(keys(base.identity, self._steps))
        self._reusable = 0 if recipe.force else len(base.before) + reusable(recipe)
        self._template = base.template
        self._surroundings = Surroundings.of(self._template.config)
        self._current = BASE_STEP

    async def done(self) -> Snapshot:
        """See :meth:`Runner.build`."""
        try:
            return await self._done()
        except CubeError as error:
            self._lines.note(error.message, self._current, "error")
            raise BuildFailed(error.message, self._current) from error

    async def _done(self) -> Snapshot:
        count, layer = self._known()
        if count < (own := len(self._base.before)):
            layer = await self._prepared(count, own, layer)
            count = own
        spec = self._spec(layer)
        async with self._runner.sandbox(spec, layer):
            workshop = await self._workshop(spec)
            for number in range(count, len(self._steps)):
                await self._step(number, workshop, spec.sandbox_id)
            self._current = FINAL_STEP
            snapshot = self._snapshot(spec)
            await self._runner.node.snapshot(spec.sandbox_id, snapshot.snapshot_id, memory=False)
            try:
                await self._try_start(spec.sandbox_id)
            except BaseException:
                await asyncio.shield(self._runner.node.delete_snapshot(snapshot.snapshot_id))
                raise
        return snapshot

    async def _prepared(self, count: int, own: int, layer: Layer | None) -> Layer:
        """Carry out what comes before the client's steps, by itself: who may use ``sudo`` is settled at a start.

        The last layer is kept once that is known: another build may start from it at any moment.
        """
        spec = self._spec(layer)
        async with self._runner.sandbox(spec, layer):
            workshop = await self._workshop(spec)
            for number in range(count, own):
                await self._step(number, workshop, spec.sandbox_id, keep=number < own - 1)
            uid = await workshop.answer("id -u", self._surroundings)
            if not uid.isdecimal() or len(uid) > _DIGITS:
                raise StepFailed("the image does not tell the number of its user")
            self._surroundings = replace(self._surroundings, sudo_users=(uid,))
            await self._runner.cache.keep(self._keys[own - 1], spec.sandbox_id, self._surroundings)
        prepared = self._runner.cache.find(self._keys[own - 1])
        if prepared is None:
            raise StepFailed("other builds took the place of this one's first step: build it again")
        return prepared

    async def _workshop(self, spec: SandboxSpec) -> Workshop:
        sandbox = await self._runner.node.get(spec.sandbox_id)
        return Workshop(sandbox, lambda line, level: self._lines.note(line, self._current, level))

    def _known(self) -> tuple[int, Layer | None]:
        """How many steps are done already, and the layer that they gave."""
        for count in range(self._reusable, max(len(self._base.before) - 1, 0), -1):
            layer = self._runner.cache.find(self._keys[count - 1])
            if layer is None:
                continue
            for number in range(count):
                self._announce(number, "CACHED ")
            self._surroundings = layer.surroundings
            return count, layer
        return 0, None

    async def _step(self, number: int, workshop: Workshop, sandbox_id: str, *, keep: bool = True) -> None:
        self._announce(number)
        step = self._steps[number]
        self._surroundings = await carry_out(workshop, step, self._surroundings, self._runner.uploads)
        if keep and step.kind is not StepKind.ENV:
            await self._runner.cache.keep(self._keys[number], sandbox_id, self._surroundings)

    def _announce(self, number: int, word: str = "") -> None:
        """Begin with a step. Those before the client's own are the base's."""
        own = number - len(self._base.before) + 1
        self._current = str(own) if own > 0 else BASE_STEP
        self._lines.note(f"[{self._current}] {word}{self._steps[number]}", self._current)

    async def _try_start(self, sandbox_id: str) -> None:
        """See that the start command comes up, after what it writes no longer counts: every sandbox runs it anew."""
        if self._start is None:
            return
        self._lines.note(f"[{FINAL_STEP}] START {self._start.command}", FINAL_STEP)
        sandbox = await self._runner.node.get(sandbox_id)
        around = self._surroundings
        sandbox = replace(sandbox, default_user=around.user, default_workdir=around.workdir, env_vars=around.env)
        await run_start_command(sandbox, self._start, _READY_S)
        self._lines.note(f"[{FINAL_STEP}] READY {self._start.ready}", FINAL_STEP)

    def _spec(self, layer: Layer | None) -> SandboxSpec:
        below = layer or self._base.origin.snapshot
        return SandboxSpec(
            sandbox_id=new_sandbox_id(),
            template=replace(self._template, config=self._surroundings.laid_over(self._template.config)),
            resources=self._resources(),
            envd_access_token=new_token(),
            snapshot_id=None if below is None else below.snapshot_id,
        )

    def _resources(self) -> Resources:
        below, wishes = self._base.origin, self._build.wishes
        resources = below.template.resources if below.snapshot is None else below.snapshot.resources
        return replace(
            resources,
            cpu_count=wishes.cpu_count or resources.cpu_count,
            memory_mb=wishes.memory_mb or resources.memory_mb,
            disk_mb=max(wishes.free_disk_mb or 0, resources.disk_mb),
        )

    def _snapshot(self, spec: SandboxSpec) -> Snapshot:
        config = self._surroundings.laid_over(self._template.config)
        return Snapshot(
            snapshot_id=new_snapshot_id(),
            name=None,
            origin_sandbox_id=spec.sandbox_id,
            template=replace(self._template, config=config, start=_if_any(self._start)),
            created_at=self._runner.clock.now(),
            runtime=self._runner.node.runtime,
            memory=False,
            resources=spec.resources,
            metadata={},
            env_vars={},
        )


def _if_any(start: StartCommand | None) -> StartCommand | None:
    return None if start == StartCommand() else start
