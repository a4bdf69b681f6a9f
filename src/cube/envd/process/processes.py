"""The table of processes of one sandbox.

Bounds, all per sandbox:

* :data:`LIVE_LIMIT` processes that were started here and run.
* :data:`ENDED_LIMIT` ended ones, kept for :data:`ENDED_SECONDS`, so that a client that lost its connection still gets
  the rest.
* Undelivered output of 1 MiB per process for the first sixteen, less for each further one, down to 64 KiB.
* :data:`LEFTOVER_LIMIT` pipes of ended processes that their children still hold. Those are read and thrown away:
  closing them would kill a server in the background with SIGPIPE.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import cast

import structlog

from cube.envd.errors import ProcessNotFound
from cube.envd.guest import GuestProcess
from cube.envd.process.managed import ManagedProcess, ProcessSpec
from cube.envd.process.pump import Pump
from cube.envd.process.throttle import Throttle
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import LimitExceeded, Unavailable

LIVE_LIMIT = 1024
ENDED_LIMIT = 64
ENDED_SECONDS = 60.0
LEFTOVER_LIMIT = 64
_OUTPUT_MOST = 1024 * 1024
_OUTPUT_LEAST = 64 * 1024
_OUTPUT_SHARED = 16 * 1024 * 1024

_STATE_KEY = "cube.envd.process"

log = structlog.get_logger(__name__)


class ProcessTable:
    """Processes by pid and by tag, with the tasks that supervise them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._live: dict[int, ManagedProcess] = {}
        self._ended: OrderedDict[int, tuple[float, ManagedProcess]] = OrderedDict()
        self._leftover: deque[Pump] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._throttle = Throttle()
        self._closed = False

    def check_room(self) -> None:
        """Raise ``LimitExceeded`` when no further process may be started."""
        if len(self._live) >= LIVE_LIMIT:
            raise LimitExceeded(f"{LIVE_LIMIT} processes that were started here still run; end some of them")

    def add(self, spec: ProcessSpec, guest: GuestProcess, deadline: float | None) -> ManagedProcess:
        """Take over a process that was just spawned; it is killed at ``deadline`` (event loop time).

        Raises ``Unavailable`` when the sandbox stopped meanwhile.
        """
        process = ManagedProcess(spec, guest, self._capacity(), self._throttle)
        if self._closed:
            process.close()
            raise Unavailable("the sandbox has stopped", retry_after=None)
        if (older := self._live.get(process.pid)) is not None:
            self._retire(older)
        self._live[process.pid] = process
        task = self._loop.create_task(self._supervise(process, deadline), name=f"process {process.pid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return process

    def live(self) -> Iterable[ManagedProcess]:
        """Those that run, in order of their start."""
        return tuple(self._live.values())

    def by_pid(self, pid: int) -> ManagedProcess:
        """A running process; raises ``ProcessNotFound``."""
        if (process := self._live.get(pid)) is None:
            raise ProcessNotFound("pid", pid)
        return process

    def by_tag(self, tag: str) -> ManagedProcess:
        """The running process that was started last with this tag; raises ``ProcessNotFound``."""
        for process in reversed(self._live.values()):
            if process.spec.tag == tag:
                return process
        raise ProcessNotFound("tag", tag)

    def ended_by_pid(self, pid: int) -> ManagedProcess:
        """One that ended a short while ago; raises ``ProcessNotFound``."""
        self._forget_old()
        if (found := self._ended.get(pid)) is None:
            raise ProcessNotFound("pid", pid)
        return found[1]

    def ended_by_tag(self, tag: str) -> ManagedProcess:
        """The last one with this tag that ended a short while ago; raises ``ProcessNotFound``."""
        self._forget_old()
        for _, process in reversed(self._ended.values()):
            if process.spec.tag == tag:
                return process
        raise ProcessNotFound("tag", tag)

    async def close(self) -> None:
        """Stop supervising and close every descriptor; the processes end with the sandbox."""
        self._closed = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A task that was cancelled before its first step has closed nothing.
        for process in self.live():
            process.close()
        while self._leftover:
            self._leftover[0].close()

    async def _supervise(self, process: ManagedProcess, deadline: float | None) -> None:
        try:
            for pump in await process.supervise(deadline):
                self._discard(pump)
        except Exception:  # a fault in one process must not go unseen, nor reach the others
            log.exception("supervising a process failed", pid=process.pid)
        finally:
            if self._live.get(process.pid) is process:
                self._retire(process)

    def _retire(self, process: ManagedProcess) -> None:
        del self._live[process.pid]
        self._ended.pop(process.pid, None)
        self._ended[process.pid] = (self._loop.time(), process)
        self._forget_old()

    def _forget_old(self) -> None:
        horizon = self._loop.time() - ENDED_SECONDS
        while self._ended and (len(self._ended) > ENDED_LIMIT or next(iter(self._ended.values()))[0] < horizon):
            self._ended.popitem(last=False)

    def _discard(self, pump: Pump) -> None:
        if len(self._leftover) >= LEFTOVER_LIMIT:
            self._leftover[0].close()
        self._leftover.append(pump)
        pump.redirect(
            lambda data: self._throttle.spend(len(data), self._loop.time()), lambda: self._leftover.remove(pump)
        )

    def _capacity(self) -> int:
        share = _OUTPUT_SHARED // (len(self._live) + len(self._ended) + 1)
        return max(_OUTPUT_LEAST, min(_OUTPUT_MOST, share))


def table_of(sandbox: EnvdSandbox) -> ProcessTable:
    """The process table of a sandbox, made on first use."""
    table = sandbox.state.get(_STATE_KEY)
    if table is None:
        table = sandbox.state[_STATE_KEY] = ProcessTable()
    return cast(ProcessTable, table)
