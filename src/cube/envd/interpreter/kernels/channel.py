"""The two protocol descriptors of a kernel, and what keeps user code away from them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

#: Descriptors from this number on belong to us; user code counts up from 3.
FIRST_PRIVATE_FD = 200
#: Longest line that may be sent, in bytes; the service closes a kernel that sends a longer one.
MAX_LINE = 10 * 1024 * 1024

_BLOCK = 256 * 1024


class Channel:
    """Sends events and reads requests; silent in forked children, so that only the kernel itself is heard."""

    def __init__(self, requests: int, events: int) -> None:
        self._requests = requests
        self._events = events
        self._descriptors: tuple[int, ...] = (requests, events)
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._held = False
        self._interrupted = False
        self._pending = b""
        os.register_at_fork(after_in_child=self._forget)

    def send(self, event: dict[str, Any]) -> None:
        """Send one event; blocks while the service does not read."""
        self.send_line(json.dumps(event, separators=(",", ":")).encode())

    def send_line(self, line: bytes) -> None:
        """Send an event that is JSON already."""
        if self.is_ours:
            with self.uninterrupted():
                self._write(line + b"\n")

    @contextlib.contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Hold an interrupt back until the block is done, so that it cannot tear a line."""
        if threading.current_thread() is not threading.main_thread() or self._held:
            yield
            return
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt

    def on_interrupt(self, *_: object) -> None:
        """Handler of SIGINT while a cell runs."""
        if self._held:
            self._interrupted = True
        else:
            raise KeyboardInterrupt

    def requests(self) -> Iterator[dict[str, Any]]:
        """Requests as they arrive, until the service closes its end.

        A line that is none was cut off, when the sandbox was copied while the service wrote it.
        """
        while True:
            line = self.read_line()
            if line is None:
                return
            try:
                request = json.loads(line)
            except ValueError:
                continue
            yield request

    def read_line(self) -> bytes | None:
        """The next line without its end, or ``None`` at the end of file."""
        while b"\n" not in self._pending:
            block = os.read(self._requests, _BLOCK)
            if not block:
                return None
            self._pending += block
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    @property
    def is_ours(self) -> bool:
        """Whether this process is the kernel, not a child that user code forked."""
        return os.getpid() == self._owner

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        with self._lock:
            while view:
                view = view[os.write(self._events, view) :]

    def _forget(self) -> None:
        self._lock = threading.Lock()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = ()  # the numbers may be used again, and a child may fork too


def take_private(descriptor: int) -> int:
    """Move a descriptor to a high number, closed on exec; the old number is closed."""
    private = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE_FD)
    os.close(descriptor)
    return private


def claim_standard_streams() -> Channel:
    """Take stdin and stdout for the protocol and put /dev/null in their place."""
    requests, events = take_private(0), take_private(1)
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
        null = os.open(os.devnull, flags)
        if null != number:
            os.dup2(null, number)
            os.close(null)
    os.set_inheritable(0, True)
    os.set_inheritable(1, True)
    return Channel(requests, events)


def interrupt_main_thread() -> None:
    """Deliver SIGINT to the thread that runs cells, and to nothing else."""
    ident = threading.main_thread().ident
    if ident is not None:
        signal.pthread_kill(ident, signal.SIGINT)
