"""One thread that does all database work, several requests to a commit.

The event loop never waits for the disk: it hands over a piece of work and gets a future. Work is done in the order in
which it was handed over; whatever has piled up meanwhile shares one transaction, so the cost of a commit is divided
by the load.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Executable
from sqlalchemy.exc import SQLAlchemyError

from cube.model.errors import HostError, StorageFull, Unavailable

T = TypeVar("T")

#: Most pieces of work in one transaction.
_BATCH = 256


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[Connection], Any]
    done: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Outcome:
    job: _Job
    value: Any = None
    error: Exception | None = None

    def deliver(self) -> None:
        if self.job.done.done():
            return
        if self.error is None:
            self.job.done.set_result(self.value)
        else:
            self.job.done.set_exception(self.error)


class Writer:
    """The thread. Belongs to the event loop that is running when it is made."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="cube-store", daemon=True)
        self._closed = False
        self._thread.start()

    def submit(self, work: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Have ``work`` done in a transaction; the future is done when that is committed.

        Cancelling the future does not take the work back. Fails with ``StorageFull`` or ``HostError``. ``work`` may be
        called a second time when its first transaction had to be rolled back because of another piece of work in it.
        """
        if self._closed:
            raise Unavailable("the service is shutting down: try again in a moment")
        done: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, done))
        return done

    async def close(self) -> None:
        """Finish what was handed over, then end the thread. May be called twice."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        with self._engine.connect() as connection:
            while (first := self._jobs.get()) is not None:
                batch, last = self._gather(first)
                self._deliver(_commit_together(connection, batch))
                if last:
                    return

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        """Everything that waits, and whether the end was among it."""
        batch = [first]
        with contextlib.suppress(queue.Empty):
            while len(batch) < _BATCH:
                job = self._jobs.get_nowait()
                if job is None:
                    return batch, True
                batch.append(job)
        return batch, False

    def _deliver(self, outcomes: Sequence[_Outcome]) -> None:
        # The loop is closed when the process is being torn down without close(); then nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_deliver_all, outcomes)


def execution(
    statement: Executable, parameters: Mapping[str, Any], also: Callable[[Connection], None] | None = None
) -> Callable[[Connection], None]:
    """The work of executing one statement; ``also`` is done in the same transaction."""

    def work(connection: Connection) -> None:
        connection.execute(statement, parameters)
        if also is not None:
            also(connection)

    return work


def _deliver_all(outcomes: Sequence[_Outcome]) -> None:
    for outcome in outcomes:
        outcome.deliver()


def _commit_together(connection: Connection, batch: Sequence[_Job]) -> list[_Outcome]:
    """One transaction for all; when it fails, one for each, so that nobody pays for another's mistake."""
    try:
        with connection.begin():
            return [_Outcome(job, value=job.work(connection)) for job in batch]
    except Exception:  # noqa: BLE001  the work tells what is wrong when it is done by itself, below
        return [_commit_alone(connection, job) for job in batch]


def _commit_alone(connection: Connection, job: _Job) -> _Outcome:
    try:
        with connection.begin():
            return _Outcome(job, value=job.work(connection))
    except SQLAlchemyError as error:
        translated = _translated(error)
        translated.__cause__ = error
        return _Outcome(job, error=translated)
    except Exception as error:  # noqa: BLE001  handed to whoever waits for this piece of work
        return _Outcome(job, error=error)


def _translated(error: SQLAlchemyError) -> HostError | StorageFull:
    if "disk is full" in str(error):
        return StorageFull("the database cannot grow: free some space in the state directory")
    return HostError(f"the database refused a request ({type(error).__name__}); the log has the reason")
