"""What the kernels of other languages have in common: a child process that runs cells, watched from Python."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .channel import Channel, claim_standard_streams, take_private
from .generation import Generation
from .streams import Capture

#: What a driver reports about a cell that failed: name, value, traceback.
Failure = tuple[str, str, str]


class Driver(Protocol):
    """Runs cells in a child process."""

    def run(self, request: dict[str, Any]) -> Failure | None:
        """Run a cell to its end."""
        ...

    def interrupt(self) -> None:
        """Make the running cell end; called from another thread."""
        ...

    def set_environment(self, variables: dict[str, str]) -> None:
        """Set variables for the cells to come."""
        ...

    def reseed(self) -> None:
        """This is a copy: give the child's random generators seeds that no other copy has."""
        ...


class ChildEnded(Exception):
    """The child process has ended; ``status`` is its exit code, negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the process ended with status {status}")
        self.status = status


class Child:
    """A process with a pipe of its own in each direction, beside the captured stdout and stderr.

    The two descriptor numbers are passed to ``command``. The child leads a process group, which interrupts go to.
    """

    def __init__(self, command: Callable[[int, int], list[str]]) -> None:
        requests, self._requests = _private_pipe()
        self._answers, answers = _private_pipe()
        self._process = subprocess.Popen(
            command(requests, answers),
            stdin=subprocess.DEVNULL,
            pass_fds=(requests, answers),
            start_new_session=True,
        )
        os.close(requests)
        threading.Thread(target=self._wait, args=(answers,), daemon=True).start()
        self._pending = b""

    def send(self, data: bytes) -> None:
        """Write a request. Raises :class:`ChildEnded`."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._requests, view) :]
        except BrokenPipeError:
            raise ChildEnded(self._process.wait()) from None

    def read_line(self) -> bytes:
        """The next line of its answers, without the end. Raises :class:`ChildEnded`."""
        while b"\n" not in self._pending:
            self._pending += os.read(self._answers, 1 << 18)
            if self._pending.endswith(_ENDED):
                raise ChildEnded(self._process.wait())
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def interrupt(self) -> None:
        """Send SIGINT to its process group."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)

    def close(self) -> None:
        """Give the pipes back; the process must have ended."""
        os.close(self._requests)
        os.close(self._answers)

    def _wait(self, answers: int) -> None:
        """Report the end on the pipe of answers: its children may hold that open, so end of file may never come."""
        self._process.wait()
        os.write(answers, _ENDED)
        os.close(answers)


_ENDED = b"\0ended"


def _private_pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    return take_private(read_end), take_private(write_end)


class Supervisor:
    """Serves the protocol for one child."""

    def __init__(self, channel: Channel, capture: Capture, driver: Driver) -> None:
        self._channel = channel
        self._capture = capture
        self._driver = driver
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._running: int | None = None
        self._generation = Generation()
        self._count = 0

    def serve(self) -> None:
        """Run cells until the service closes the channel; does not return."""
        threading.Thread(target=self._receive, daemon=True).start()
        self._capture.start()
        self._channel.send({"type": "ready", "pid": os.getpid()})
        while True:
            self._carry_out(self._inbox.get())

    def _carry_out(self, request: dict[str, Any]) -> None:
        if request["op"] == "environment":
            os.environ.update(request["variables"])
            self._driver.set_environment(request["variables"])
            return
        if self._generation.changed():
            self._driver.reseed()
        self._execute(request)

    def _receive(self) -> None:
        for request in self._channel.requests():
            if request["op"] == "execute":
                self._inbox.put(request)
            elif request["op"] == "interrupt" and request["id"] == self._running:
                self._driver.interrupt()
            elif request["op"] == "environment":
                self._inbox.put(request)
        os._exit(0)

    def _execute(self, request: dict[str, Any]) -> None:
        self._count += 1
        self._channel.send({"type": "started", "id": request["id"], "count": self._count})
        self._running = request["id"]
        failure = self._driver.run(request)
        self._running = None
        self._capture.finish()
        if failure is not None:
            name, value, traceback = failure
            self._channel.send({"type": "error", "name": name, "value": value, "traceback": traceback})
        self._channel.send({"type": "done", "id": request["id"]})


def run_host(make_driver: Callable[[Channel, Capture], Driver]) -> None:
    """The whole life of a host: read the configuration, start the child, serve."""
    signal.signal(signal.SIGINT, _nothing)  # not SIG_IGN: what a child inherits as ignored, bash cannot trap
    channel = claim_standard_streams()
    configuration: Mapping[str, str] = next(channel.requests(), {})
    try:
        os.chdir(os.path.expanduser(configuration.get("cwd", "")) or ".")
        capture = Capture(channel)
        driver = make_driver(channel, capture)
    except OSError as error:
        channel.send({"type": "fatal", "message": f"The kernel could not start: {error}"})
        return
    Supervisor(channel, capture, driver).serve()


def _nothing(*_: object) -> None:
    """Interrupts are for the child."""
