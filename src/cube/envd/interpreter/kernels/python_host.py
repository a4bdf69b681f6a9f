"""The Python kernel host: loads IPython once, then forks one kernel for each context.

A fork costs a few milliseconds and shares the memory of IPython; loading it again would cost 160 ms and 20 MB. The host
itself never runs user code. Its own channel carries ``{"op": "fork", "holder", "cwd"}``, answered by the new kernel on
the channel that the process ``holder`` keeps open as its stdin and stdout, ``{"op": "kill", "pid"}``, and
``{"op": "environment", "variables"}`` for the kernels to come.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from typing import TYPE_CHECKING, Any, NoReturn

from .channel import Channel, claim_standard_streams, take_private
from .generation import Generation, reseed

if TYPE_CHECKING:
    from .shell import Shell


class ForkServer:
    """Forks kernels on demand, and kills them."""

    def __init__(self, control: Channel, shell: Shell) -> None:
        self._control = control
        self._shell = shell
        self._generation = Generation()
        self._children: set[int] = set()

    def serve(self) -> None:
        """Answer requests until the service closes the channel."""
        for request in self._control.requests():
            self._reap()
            if request["op"] == "fork":
                self._fork(request)
            elif request["op"] == "kill" and request["pid"] in self._children:
                os.kill(request["pid"], signal.SIGKILL)
            elif request["op"] == "environment":
                os.environ.update(request["variables"])
                time.tzset()

    def _reap(self) -> None:
        while self._children:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)

    def _fork(self, request: dict[str, Any]) -> None:
        try:
            requests, events = open_streams(request["holder"])
        except OSError as error:
            self._control.send({"type": "refused", "holder": request["holder"], "message": str(error)})
            return
        if self._generation.changed():
            reseed()
        child = os.fork()
        if child == 0:
            _become_kernel(Channel(requests, events), self._shell, self._generation, request["cwd"])
        self._children.add(child)
        os.close(requests)
        os.close(events)


def open_streams(holder: int) -> tuple[int, int]:
    """Open the pipes that another process has as stdin and stdout. Raises ``OSError``."""
    requests = os.open(f"/proc/{holder}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    try:
        events = os.open(f"/proc/{holder}/fd/1", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        os.close(requests)
        raise
    for descriptor in (requests, events):
        os.set_blocking(descriptor, True)
    return take_private(requests), take_private(events)


def _become_kernel(channel: Channel, shell: Shell, generation: Generation, cwd: str) -> NoReturn:
    from .python_kernel import PythonKernel

    try:
        os.setsid()
        os.chdir(os.path.expanduser(cwd) or ".")
        PythonKernel(channel, shell, generation).serve()
    except OSError as error:
        channel.send({"type": "fatal", "message": f"The kernel could not start: {error}"})
    finally:
        os._exit(1)


def main() -> None:
    """Load everything, report ready, fork kernels."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = claim_standard_streams()
    gc.disable()
    try:
        from . import python_kernel  # noqa: F401 - loaded for the kernels to come
        from .shell import make_shell
    except ImportError as error:
        control.send({"type": "fatal", "message": f"Python code cannot run, the image lacks IPython: {error}"})
        return
    shell = make_shell()
    gc.freeze()
    gc.enable()
    control.send({"type": "ready", "pid": os.getpid()})
    ForkServer(control, shell).serve()
