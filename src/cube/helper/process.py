"""The service's end of its helper."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Final, Protocol, TypeVar, TypeVarTuple

from cube.helper.wire import Outcome, close_all, receive, send

_log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: A function of a module, which gets and gives what can be pickled, and descriptors, which become the caller's.
Work = Callable[[*Ts], tuple[T, list[int]]]
#: Seconds within which a process whose socket is closed has ended.
_END_S: Final = 5.0


class Caller(Protocol):
    """Carries out work in a place of its choice."""

    def call(self, work: Work[*Ts, T], *arguments: *Ts) -> tuple[T, list[int]]:
        """What the work comes to; raises what it raises. Blocks. Any number of threads may call, and take turns."""
        ...


class Here:
    """Implements ``Caller`` without a helper."""

    def call(self, work: Work[*Ts, T], *arguments: *Ts) -> tuple[T, list[int]]:
        """In the calling thread."""
        return work(*arguments)


class Helper:
    """Implements ``Caller`` with a process, from :meth:`start` to :meth:`close`; before and after that, and when it has
    died, the calling thread does the work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it is there."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it. It belongs to the network namespace of the calling thread. Blocks for some milliseconds; what is
        asked of it meanwhile waits until it is loaded."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cube.helper", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._socket = ours

    def close(self) -> None:
        """End it. Blocks. May be called twice."""
        with self._lock:
            self._let_go()

    def call(self, work: Work[*Ts, T], *arguments: *Ts) -> tuple[T, list[int]]:
        """In the helper; see :class:`Caller`."""
        with self._lock:
            answer = self._answer(work, arguments)
        if answer is None:
            return work(*arguments)
        outcome, fds = answer
        if outcome.error is not None:
            close_all(fds)
            raise outcome.error
        return outcome.value, fds

    def _answer(self, work: object, arguments: tuple[object, ...]) -> tuple[Outcome, list[int]] | None:
        """``None`` when there is no helper, or none any more."""
        if self._socket is None:
            return None
        try:
            send(self._socket, (work, arguments))
            answer = receive(self._socket)
        except OSError as error:
            _log.warning("the helper cannot be reached: %s", error)
            answer = None
        if answer is None:
            _log.warning("the helper has ended; the service does its work from now on")
            self._let_go()
        return answer

    def _let_go(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            reap(self._process)
            self._process = None


def reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process whose socket is closed; one that goes on is killed. Blocks."""
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
