"""The contexts of one sandbox: a table of kernels with a name, a language and a queue each."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from cube.envd.guest import LastingGuest
from cube.envd.interpreter.child_kernels import start_child
from cube.envd.interpreter.events import Event
from cube.envd.interpreter.fork_host import ForkHost
from cube.envd.interpreter.kernel import Cell, Execution, Kernel, KernelDied, KernelState, TransportState
from cube.envd.interpreter.languages import Language
from cube.envd.interpreter.processes import killer, matter_at_start
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import LimitExceeded, NotFound, SandboxNotRunning

log = structlog.get_logger(__name__)

#: Most contexts of one sandbox, and most executions that wait or run in all of them.
MAX_CONTEXTS = 32
MAX_EXECUTIONS = 64
#: How often an abandoned cell is interrupted, and how long each time is waited for its end, in seconds.
INTERRUPTS = 3
SETTLE_SECONDS = 1.5

_KEY = "interpreter"

Sink = Callable[[list[Event]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ContextState:
    """One context; ``kernel`` is ``None`` when none runs."""

    id: str
    language: str
    cwd: str
    default: bool
    kernel: KernelState | None


@dataclass(frozen=True, slots=True)
class InterpreterState:
    """The contexts of a sandbox, for whoever takes them up in a copy of it."""

    host: TransportState | None
    contexts: list[ContextState]


class Admission:
    """Counts the executions of a sandbox, so that what waits for it cannot fill the memory of the service."""

    def __init__(self) -> None:
        self._count = 0

    def __enter__(self) -> None:
        if self._count >= MAX_EXECUTIONS:
            raise LimitExceeded(
                f"{MAX_EXECUTIONS} executions wait or run in this sandbox; try again when some have ended."
            )
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1


class Context:
    """A kernel that is started when it is needed, and again when it has died. Executions run one after the other."""

    def __init__(
        self, language: Language, cwd: str, start: Callable[[], Awaitable[Kernel]], context_id: str | None = None
    ) -> None:
        self.id = context_id or secrets.token_hex(16)
        self.language = language
        self.cwd = cwd
        self._start = start
        self._starting = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._kernel: Kernel | None = None

    async def ready(self) -> Kernel:
        """The kernel, started if need be. Raises ``CubeError``."""
        async with self._starting:
            if self._kernel is None or not self._kernel.alive:
                await self._discard()
                self._kernel = await self._start()
            return self._kernel

    async def run(self, cell: Cell, sink: Sink) -> None:
        """Execute a cell when its turn has come, and pass its events on.

        Cancelling it gives up the place in the queue, or interrupts the cell; when that does not help, the kernel is
        killed. Raises :class:`KernelDied` and ``CubeError``.
        """
        async with self._turn:
            await self._run_now(cell, sink)

    def describe(self, stream_of: Callable[[int], int]) -> KernelState | None:
        """The kernel for whoever takes it up; ``None`` when none runs."""
        return None if self._kernel is None else self._kernel.describe(stream_of)

    async def take_up(self, kernel: Kernel, state: KernelState, variables: Mapping[str, str]) -> None:
        """Go on with a kernel of another connection, or of the sandbox that this one was copied from. What it is at is
        interrupted, for nobody is left to listen; one that does not stop is ended."""
        async with self._starting:
            self._kernel = kernel
        try:
            execution = await kernel.take_up(state, variables)
            if execution is not None and not await _settle(execution):
                await kernel.close()
        except KernelDied:
            await kernel.close()

    async def restart(self) -> None:
        """Replace the kernel; an execution under way fails. Raises ``CubeError``."""
        await self.close(KernelDied("ContextRestarting", "The context was restarted before the execution ended."))
        await self.ready()

    async def close(self, reason: KernelDied | None = None) -> None:
        """End the kernel; an execution under way fails with ``reason``."""
        async with self._starting:
            await self._discard(reason)

    async def _run_now(self, cell: Cell, sink: Sink) -> None:
        kernel = await self.ready()
        settled = False
        try:
            execution = await kernel.execute(cell)
            try:
                while not execution.finished:
                    await sink(await execution.next())
            except BaseException as error:
                settled = not isinstance(error, KernelDied) and await _settle(execution)
                raise
            settled = True
        finally:
            if not settled:
                await kernel.close()

    async def _discard(self, reason: KernelDied | None = None) -> None:
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            await kernel.close(reason)


async def _settle(execution: Execution) -> bool:
    """Bring an abandoned execution to its end; ``False`` when it cannot be interrupted."""
    for _ in range(INTERRUPTS):
        with contextlib.suppress(KernelDied, TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await execution.interrupt()
                while not execution.finished:
                    await execution.next()
        if execution.finished or not execution.kernel_alive:
            break
    return execution.finished


class Interpreter:
    """All contexts of a sandbox; kept in its ``state`` and closed with it."""

    def __init__(self, sandbox: EnvdSandbox) -> None:
        self._sandbox = sandbox
        self._python = ForkHost(sandbox)
        self.admission = Admission()
        self._contexts: dict[str, Context] = {}
        self._defaults: dict[Language, Context] = {}
        self.closed = False
        for language in (Language.PYTHON, Language.JAVASCRIPT):
            self._defaults[language] = self._add(language, "")

    def list(self) -> list[Context]:
        """All contexts, the newest last."""
        return list(self._contexts.values())

    def get(self, context_id: str) -> Context:
        """The context of an id; raises ``NotFound``."""
        try:
            return self._contexts[context_id]
        except KeyError:
            raise NotFound(f"Context {context_id[:60]} not found") from None

    def default(self, language: Language) -> Context:
        """The context of executions that name a language and no context; raises ``LimitExceeded``."""
        kernel = language.kernel
        if kernel not in self._defaults:
            self._defaults[kernel] = self._add(kernel, "")
        return self._defaults[kernel]

    async def create(self, language: Language, cwd: str) -> Context:
        """A new context with its kernel running. Raises ``CubeError``."""
        context = self._add(language, cwd)
        try:
            await context.ready()
        except BaseException:
            del self._contexts[context.id]
            raise
        return context

    async def remove(self, context_id: str) -> None:
        """End a context; raises ``NotFound``. A removed default context is made anew when it is needed."""
        context = self.get(context_id)
        del self._contexts[context_id]
        self._defaults = {language: one for language, one in self._defaults.items() if one is not context}
        await context.close()

    def describe(self, stream_of: Callable[[int], int]) -> InterpreterState:
        """All of it, for whoever takes it up in a copy of the sandbox."""
        contexts = [
            ContextState(
                one.id, one.language.value, one.cwd, one is self._defaults.get(one.language), one.describe(stream_of)
            )
            for one in self.list()
        ]
        return InterpreterState(self._python.describe(stream_of), contexts)

    async def take_up(self, guest: LastingGuest, state: InterpreterState) -> None:
        """Go on with what is described, in place of what is here, which has no kernels yet. What is gone in the sandbox
        is started again when it is needed."""
        variables = {**self._sandbox.image.env, **self._sandbox.env_vars}
        if state.host is not None:
            with contextlib.suppress(NotFound):
                await self._python.take_up(guest, state.host, variables)
        self._contexts.clear()
        self._defaults.clear()
        for one in state.contexts:
            context = self._add(Language(one.language), one.cwd, one.id)
            if one.default:
                self._defaults[context.language] = context
            if one.kernel is not None:
                await self._take_up_kernel(context, one.kernel, guest, variables)

    async def _take_up_kernel(
        self, context: Context, state: KernelState, guest: LastingGuest, variables: Mapping[str, str]
    ) -> None:
        process = state.transport.process
        kill = self._python.kill if process is None else killer(guest, process)
        try:
            transport = await state.transport.open(guest, kill)
        except NotFound:
            return
        await context.take_up(Kernel(transport), state, variables)

    async def renew(self) -> None:
        """The sandbox was given variables: kernels that were started without them end, and start anew when needed."""
        for context in self.list():
            await context.close()
        if matter_at_start(self._sandbox):
            await self._python.close()
        else:
            await self._python.renew({**self._sandbox.image.env, **self._sandbox.env_vars})

    async def close(self) -> None:
        """End everything; the sandbox stops."""
        self.closed = True
        for context in self.list():
            await context.close()
        await self._python.close()

    def _add(self, language: Language, cwd: str, context_id: str | None = None) -> Context:
        if len(self._contexts) >= MAX_CONTEXTS:
            raise LimitExceeded(f"A sandbox has at most {MAX_CONTEXTS} contexts; remove one that is not needed.")
        context = Context(language, cwd or home(self._sandbox), self._starter(language, cwd), context_id)
        self._contexts[context.id] = context
        return context

    def _starter(self, language: Language, cwd: str) -> Callable[[], Awaitable[Kernel]]:
        where = cwd or self._sandbox.default_workdir

        async def start() -> Kernel:
            if self.closed:
                raise SandboxNotRunning(self._sandbox.sandbox_id, "stopped")
            if language is Language.PYTHON:
                return await self._python.kernel(where)
            return await start_child(self._sandbox, language, where)

        return start


def home(sandbox: EnvdSandbox) -> str:
    """Working directory of contexts that ask for none, as clients are told."""
    if sandbox.default_workdir:
        return sandbox.default_workdir
    return "/root" if sandbox.default_user in ("", "root") else f"/home/{sandbox.default_user}"


def interpreter_of(sandbox: EnvdSandbox) -> Interpreter:
    """The interpreter of a sandbox, made when it is first asked for."""
    interpreter = sandbox.state.get(_KEY)
    if not isinstance(interpreter, Interpreter):
        interpreter = Interpreter(sandbox)
        sandbox.state[_KEY] = interpreter
    return interpreter
