"""The sandbox service: everything that can be asked about sandboxes, whoever asks (API, proxy, command line)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection

from cube.cubelet.agent import NodeAgent
from cube.master.builds.service import BuildService
from cube.master.sandboxes.acceptance import Acceptance
from cube.master.sandboxes.admission import Admission, Limits
from cube.master.sandboxes.background import Background
from cube.master.sandboxes.catalogue import TemplateCatalogue
from cube.master.sandboxes.clock import Clock, SystemClock
from cube.master.sandboxes.context import Context
from cube.master.sandboxes.deadlines import DeadlineTimer
from cube.master.sandboxes.endings import Endings
from cube.master.sandboxes.expiry import Expiry
from cube.master.sandboxes.forks import Forks
from cube.master.sandboxes.lifecycle import visible_state
from cube.master.sandboxes.listing import select
from cube.master.sandboxes.logbook import LogBook, LogEntry, LogLevel, LogQuery
from cube.master.sandboxes.metering import Metering
from cube.master.sandboxes.operations import Operations, exclusively
from cube.master.sandboxes.origins import Origins
from cube.master.sandboxes.recovery import recover
from cube.master.sandboxes.registry import REMEMBERED, Entry, Registry
from cube.master.sandboxes.repeats import Recording, Repeats
from cube.master.sandboxes.requests import Connected, CreateSandbox, IdempotencyKey, ListQuery, Page
from cube.master.sandboxes.usage import UsageSample
from cube.master.secrets.service import SecretService
from cube.master.snapshots.service import SnapshotService
from cube.master.store.store import Store
from cube.master.volumes.service import VolumeService
from cube.model.errors import (
    Conflict,
    CubeError,
    SandboxNotFound,
    SandboxNotRunning,
    Unavailable,
)
from cube.model.network import NetworkConfig
from cube.model.sandbox import Ingress, OnTimeout, PauseMode, Sandbox, SandboxState
from cube.settings import Settings

log = structlog.get_logger(__name__)

#: How long ended sandboxes are remembered (the latest of them, that is), and how often the others are forgotten.
_REMEMBERED = timedelta(hours=24)
_PRUNE_INTERVAL_S = 300.0
#: Seconds that a shutdown waits for operations under way before it cuts them off.
_GRACE_S = 10.0


@asynccontextmanager
async def sandbox_service(node: NodeAgent, settings: Settings) -> AsyncIterator[SandboxService]:
    """The service over the embedded database of ``settings``, running until the block is left.

    Leaving it does not end sandboxes: the next start takes them over. Raises ``HostError`` when the database or its key
    cannot be used.
    """
    store = await Store.open(settings.database)
    try:
        service = SandboxService(node, store, settings)
        try:
            await service.start()
            yield service
        finally:
            await service.close()
    finally:
        await store.close()


class SandboxService:
    """Sandboxes of one node. All methods are for the event loop that it was made on.

    Besides what each method names, all raise ``SandboxNotFound`` for an id that does not exist or has ended, and
    ``StorageFull`` or ``HostError`` when the store or the node fails.
    """

    def __init__(
        self,
        node: NodeAgent,
        store: Store,
        settings: Settings,
        *,
        clock: Clock | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._node = node
        self._settings = settings
        self._clock = clock or SystemClock()
        self._registry = Registry()
        self._background = Background()
        self._admission = Admission(limits or Limits(settings.max_sandboxes))
        self.timer = DeadlineTimer(self._clock, self._time_is_up)
        context = Context(
            node, store.sandboxes, self._clock, self._registry, self.timer, self._background, LogBook(self._clock)
        )
        self._context = context
        self._endings = Endings(context)
        self._operations = Operations(context, self._admission)
        self._metering = Metering(context)
        self._repeats = Repeats(context, store.idempotency)
        self._expiry = Expiry(context, self._operations, self._endings)
        self.volumes = VolumeService(
            node.volumes,
            store.volumes,
            settings,
            clock=self._clock,
            background=self._background,
            mounted_in=self._registry.having,
        )
        self.secrets = SecretService(store.secrets, self._clock)
        self._forks = Forks(context, self._endings, self._start)
        self._early_deaths: set[str] = set()
        self._open = False
        self._store = store
        self.templates = TemplateCatalogue(node.templates)
        self.builds = BuildService(
            node, store.builds, settings, self.templates, clock=self._clock, background=self._background
        )
        origins = Origins(node.runtime, self.templates, self.builds, lambda name: self.snapshots.find(name))
        self.snapshots = SnapshotService(
            context, store.snapshots, self._operations, origins.template_named, most=settings.max_snapshots
        )
        self._acceptance = Acceptance(node, settings, origins, self.volumes, self._clock)

    # -- life of the service -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over what an earlier run left, then watch deadlines."""
        self._node.on_death(self._died)
        present = await recover(self._context, await self.snapshots.recorded() | await self.builds.recorded())
        await self.snapshots.keep_only(present)
        await self.builds.keep_only(present)
        await self._store.revisions.forget_unused()
        await self.secrets.start()
        await self.volumes.start()
        self._open = True
        for sandbox_id in self._early_deaths:
            self._died(sandbox_id)
        self._background.start(self.timer.run(), "deadlines")
        self._background.start(self._prune(), "prune")
        if self._settings.metrics_interval:
            self._background.start(self._metering.run(self._settings.metrics_interval), "metering")

    async def close(self) -> None:
        """Take no more requests, let those under way finish (10 s at most), leave the sandboxes running."""
        self._open = False
        if work := self._registry.work():
            _, late = await asyncio.wait(work, timeout=_GRACE_S)
            for task in late:
                task.cancel()
        await self._repeats.close()
        await self._background.close()

    # -- one sandbox ---------------------------------------------------------------------------------------------

    async def create(self, request: CreateSandbox, key: IdempotencyKey | None = None, *, caller: str = "") -> Sandbox:
        """Start a sandbox; returns when it answers. When the caller is cancelled, nothing of it remains.

        Many at once wait for their turns, in which the callers (any names that tell them apart) take turns.

        With a key the same request can be made again for 24 hours: it returns the same sandbox, and waits while that
        is being created. Such a creation goes on when the caller is cancelled. Raises ``KeyReused`` when the key came
        with another request, ``Conflict`` when the sandbox of the key has ended.

        Raises ``TemplateNotFound``, ``InvalidInput``, ``Unsupported``, ``LimitExceeded`` (node or queue full),
        ``Conflict`` (ended while it was starting), ``Unavailable``.
        """
        if key is None:
            return await self._create(request, caller=caller)
        return await self._repeats.once(key, request, partial(self._create, caller=caller))

    async def _create(self, request: CreateSandbox, recording: Recording | None = None, *, caller: str) -> Sandbox:
        self._require_open()
        entry = self._acceptance.entry(request)
        entry.caller = caller
        also = None if recording is None else recording(entry.sandbox.sandbox_id)
        return await self._start(entry, request.timeout, also)

    async def _start(self, entry: Entry, seconds: int, also: Callable[[Connection], None] | None = None) -> Sandbox:
        self._admission.check(len(self._registry), entry.caller)
        self._registry.add(entry)
        try:
            sandbox = await exclusively(entry, self._operations.start(entry, seconds, also))
        except asyncio.CancelledError:
            self._endings.begin(entry)
            raise
        except Exception:
            await self._endings.finish(entry)
            raise
        log.info("sandbox.created", sandbox=sandbox.sandbox_id, template=sandbox.template_id)
        return sandbox

    def get(self, sandbox_id: str) -> Sandbox:
        """A sandbox that runs or is paused."""
        sandbox = self._registry.get(sandbox_id).sandbox
        if visible_state(sandbox.state) is None:
            raise SandboxNotFound(sandbox_id)
        return sandbox

    async def delete(self, sandbox_id: str) -> None:
        """End a sandbox, whatever is being done with it."""
        entry = self._registry.find(sandbox_id) or self._registry.get(sandbox_id)
        if entry.ending is None:
            self._context.logs.note(sandbox_id, "Deleted by a client")
        await self._endings.delete(entry)

    async def set_timeout(self, sandbox_id: str, seconds: int) -> None:
        """Let a running sandbox's time be up that many seconds from now. Raises ``InvalidInput``, ``Conflict``."""
        self._acceptance.check_timeout(seconds)
        entry = self._running(sandbox_id)
        await self._context.set_end(entry, self._context.in_seconds(seconds))

    async def refresh(self, sandbox_id: str, seconds: int) -> None:
        """Keep a running sandbox for at least ``seconds`` more seconds. Raises ``InvalidInput``, ``Conflict``."""
        self._acceptance.check_timeout(seconds)
        await self._extend(self._running(sandbox_id), seconds)

    async def fork(self, sandbox_id: str, count: int, seconds: int) -> list[Sandbox | CubeError]:
        """Start ``count`` sandboxes that begin as this one is now; it goes on. One sandbox or failure per fork.

        Raises ``InvalidInput``, ``Conflict`` (busy), ``Unsupported``, ``StorageFull``. When the caller is cancelled,
        no fork remains.
        """
        self._require_open()
        self._acceptance.check_timeout(seconds)
        source = self.snapshots.capturable(sandbox_id)
        return await self._forks.of(source, count, seconds, memory=self.snapshots.captures_memory(source.sandbox))

    async def connect(self, sandbox_id: str, seconds: int, *, memory: bool = True) -> Connected:
        """Make sure that a sandbox runs for at least ``seconds`` more seconds; a paused one is resumed.

        Without ``memory`` its processes start from the beginning, even where the pause has kept them.

        Raises ``InvalidInput``, ``Conflict`` (it is being paused).
        """
        self._acceptance.check_timeout(seconds)
        entry = await self._settled(sandbox_id)
        if entry.sandbox.state is SandboxState.PAUSED:
            resumed = await exclusively(entry, self._operations.resume(entry, seconds, memory=memory))
            return Connected(resumed, resumed=True)
        await self._extend(self._running(sandbox_id), seconds)
        return Connected(entry.sandbox, resumed=False)

    async def pause(self, sandbox_id: str, mode: PauseMode = PauseMode.FULL) -> None:
        """Pause a running sandbox. Raises ``Conflict`` (not running, or busy), ``Unsupported``."""
        self._acceptance.require_pause()
        entry = self._running(sandbox_id)
        await exclusively(entry, self._operations.pause(entry, mode))

    async def resume(
        self, sandbox_id: str, seconds: int, on_timeout: OnTimeout | None = None, *, memory: bool = True
    ) -> Sandbox:
        """Let a paused sandbox go on, with a new timeout. Raises ``InvalidInput``, ``Conflict`` (not paused, or busy).

        ``memory`` as for :meth:`connect`.
        """
        self._acceptance.check_timeout(seconds)
        entry = self._registry.get(sandbox_id)
        if entry.operation is None and entry.sandbox.state is not SandboxState.PAUSED:
            raise Conflict(f"sandbox {sandbox_id!r} is {entry.sandbox.state.value}, not paused")
        return await exclusively(entry, self._operations.resume(entry, seconds, on_timeout, memory=memory))

    async def wake(self, sandbox_id: str) -> Sandbox:
        """Return once a sandbox runs: at once, or after resuming it when it was created with automatic resume.

        For the proxy, which holds a request meanwhile. Raises ``SandboxNotRunning`` when it is paused and stays so, as
        one does that has its files alone: traffic must not start it from the beginning.
        """
        entry = await self._settled(sandbox_id)
        paused = entry.sandbox.state is SandboxState.PAUSED and entry.sandbox.pause_mode is not PauseMode.FILESYSTEM
        if paused and entry.sandbox.auto_resume:
            return await exclusively(entry, self._operations.resume(entry, self._settings.default_timeout))
        if entry.sandbox.state is not SandboxState.RUNNING:
            raise SandboxNotRunning(sandbox_id, entry.sandbox.state.value)
        return entry.sandbox

    async def update_network(self, sandbox_id: str, network: NetworkConfig) -> None:
        """Replace what a sandbox may reach, as a whole and at once; its template has no say in it any more.

        Connections that are not allowed any more end. Raises ``InvalidInput``, ``Conflict`` (busy).
        """
        network.checked()
        entry = self._registry.get(self.get(sandbox_id).sandbox_id)
        await exclusively(entry, self._operations.update_network(entry, network))

    def ingress(self, sandbox_id: str) -> Ingress:
        """Who may reach a sandbox that runs or is paused."""
        return self.get(sandbox_id).ingress

    @property
    def isolation(self) -> str:
        """The kind of isolation that new sandboxes get."""
        return self._node.capabilities.isolation

    # -- many sandboxes ------------------------------------------------------------------------------------------

    def page(self, query: ListQuery) -> Page:
        """Sandboxes that run or are paused. Raises ``InvalidInput`` for a token that no page has returned."""
        return select(self._registry.sandboxes(), query)

    def count(self) -> int:
        """How many exist, those that are starting or ending included."""
        return len(self._registry)

    def knows(self, sandbox_id: str) -> bool:
        """Whether there is such a sandbox, or was one within the last 24 hours."""
        return self._registry.knows(sandbox_id)

    async def metrics(
        self, sandbox_id: str, start: datetime | None = None, end: datetime | None = None
    ) -> list[UsageSample]:
        """What a sandbox used in that span, as far as it was sampled; a sample is taken now while it runs."""
        return await self._metering.of_one(self._registry.get(sandbox_id), start, end)

    async def metrics_of_many(self, sandbox_ids: Iterable[str]) -> dict[str, UsageSample]:
        """The newest sample of each that exists and has one."""
        return await self._metering.of_many(sandbox_ids)

    def logs(self, sandbox_id: str, query: LogQuery) -> list[LogEntry]:
        """What happened to a sandbox, also to one of the last thousand that have ended."""
        return self._context.logs.read(sandbox_id, query)

    # -- inside --------------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if not self._open:
            raise Unavailable("the service is starting or shutting down: try again in a moment")

    def _running(self, sandbox_id: str) -> Entry:
        entry = self._registry.get(sandbox_id)
        if entry.sandbox.state is not SandboxState.RUNNING:
            raise Conflict(f"sandbox {sandbox_id!r} is {entry.sandbox.state.value}, not running")
        return entry

    async def _settled(self, sandbox_id: str) -> Entry:
        """The sandbox, once a resume that is under way, or about to begin, has come to its end."""
        entry = self._registry.get(sandbox_id)
        while entry.sandbox.state in (SandboxState.PAUSED, SandboxState.RESUMING) and entry.operation is not None:
            await asyncio.wait({entry.operation})
        return self._registry.get(sandbox_id)

    async def _extend(self, entry: Entry, seconds: int) -> None:
        end_at = self._context.in_seconds(seconds)
        if end_at > entry.sandbox.end_at:
            await self._context.set_end(entry, end_at)

    def _time_is_up(self, sandbox_id: str) -> None:
        self._expiry.time_is_up(sandbox_id)

    def _died(self, sandbox_id: str) -> None:
        entry = self._registry.find(sandbox_id)
        if entry is not None:
            self._context.logs.note(sandbox_id, "Sandbox died", LogLevel.ERROR)
            self._endings.begin(entry)
        elif not self._open:
            self._early_deaths.add(sandbox_id)

    async def _prune(self) -> None:
        """Forget, every few minutes, what ended long ago. In small portions: creates share the database with it."""
        while True:
            before = self._clock.now() - _REMEMBERED
            self._registry.forget(before)
            try:
                while await self._context.store.prune(before, keep=REMEMBERED):
                    pass
                await self._repeats.prune(self._clock.now())
            except CubeError:
                log.exception("sandbox.prune_failed")
            await asyncio.sleep(_PRUNE_INTERVAL_S)
