"""The code interpreter that ``e2b-code-interpreter`` speaks to on port 49999 of a sandbox.

The service runs on the node and serves every sandbox there. A context is one *kernel*: a process inside the sandbox
that runs cells and reports over two pipes, one JSON object per line (:mod:`cube.envd.interpreter.kernels`).

Why not ``ipykernel`` with ``jupyter_client``: the client side of that protocol is ZeroMQ, so a parser written in C++
would read what hostile code sends, in a service with privileges; a kernel takes 0.6-1.1 s to its first answer and
8.5 ms for each further one. Here the Python kernel is the same IPython shell without that transport. It is forked from
a process that has loaded IPython already: measured on two cores, 4 ms for a new context and 0.6 ms for an execution
inside the sandbox. The service side is a bounded line splitter and a JSON parser.
"""

from __future__ import annotations

from cube.envd.interpreter.app import InterpreterApp
from cube.envd.interpreter.contexts import interpreter_of
from cube.envd.interpreter.languages import Language
from cube.envd.sandboxes import EnvdSandbox, EnvdSandboxes


def create_interpreter_app(sandboxes: EnvdSandboxes) -> InterpreterApp:
    """The ASGI application; the header ``x-cube-sandbox-id`` names the sandbox of each request."""
    return InterpreterApp(sandboxes)


async def prewarm(sandbox: EnvdSandbox) -> None:
    """Start the default Python context, so that the first execution finds it ready. Raises ``CubeError``."""
    await interpreter_of(sandbox).default(Language.PYTHON).ready()


__all__ = ["create_interpreter_app", "prewarm"]
