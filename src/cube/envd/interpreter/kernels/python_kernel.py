"""One Python context: takes requests from its channel and runs their code in IPython's shell."""

from __future__ import annotations

import os
import queue
import signal
import threading
from typing import Any

from .awaiting import CellLoop
from .channel import Channel, interrupt_main_thread
from .environment import temporary_environment
from .generation import Generation, reseed
from .results import Results
from .shell import Shell
from .streams import Capture


class PythonKernel:
    """Runs cells one after the other in the main thread, where Python delivers interrupts."""

    def __init__(self, channel: Channel, shell: Shell, generation: Generation) -> None:
        self._channel = channel
        self._generation = generation
        self._capture = Capture(channel)
        self._shell = shell
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._running: int | None = None
        self._loop = CellLoop()
        shell.connect(channel, Results(channel, self._capture))
        shell.loop_runner = self._loop.run

    def serve(self) -> None:
        """Run cells until the service closes the channel; does not return."""
        signal.signal(signal.SIGINT, _nothing_runs)
        threading.Thread(target=self._receive, name="cube-requests", daemon=True).start()
        self._capture.start()
        self._channel.send({"type": "ready", "pid": os.getpid()})
        while True:
            self._execute(self._loop.next_request(self._inbox))

    def _receive(self) -> None:
        for request in self._channel.requests():
            if request["op"] == "execute":
                self._inbox.put(request)
            elif request["op"] == "interrupt" and request["id"] == self._running:
                interrupt_main_thread()
            elif request["op"] == "environment":
                os.environ.update(request["variables"])
        os._exit(0)

    def _execute(self, request: dict[str, Any]) -> None:
        self._shell.error_sent = False
        if self._generation.changed():
            reseed()
        self._channel.send({"type": "started", "id": request["id"], "count": self._shell.execution_count})
        with temporary_environment(request["env"]):
            self._run_cell(request["id"], request["code"])
        if not self._channel.is_ours:
            os._exit(0)  # user code has forked, and the child has come to the end of the cell
        self._capture.finish()
        self._channel.send({"type": "done", "id": request["id"]})

    def _run_cell(self, number: int, code: str) -> None:
        try:
            signal.signal(signal.SIGINT, self._channel.on_interrupt)
            self._running = number
            self._shell.run_cell(code, store_history=True)
            self._running = None
            signal.signal(signal.SIGINT, _nothing_runs)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, _nothing_runs)
            self._running = None
            self._shell.send_error("KeyboardInterrupt", "", "KeyboardInterrupt")


def _nothing_runs(*_: object) -> None:
    """Handler of SIGINT between cells."""
