"""Kernels that are one program each: bash and JavaScript, under a small Python supervisor in the sandbox."""

from __future__ import annotations

import orjson

from cube.envd.interpreter.kernel import Kernel
from cube.envd.interpreter.processes import spawn_program
from cube.envd.sandboxes import EnvdSandbox


async def start_bash(sandbox: EnvdSandbox, cwd: str) -> Kernel:
    """A kernel that feeds cells to one bash. Raises ``CubeError``."""
    return await _start(sandbox, "bash_host", cwd)


async def start_node(sandbox: EnvdSandbox, cwd: str) -> Kernel:
    """A kernel that feeds cells to one node. Raises ``CubeError``."""
    return await _start(sandbox, "node_host", cwd)


async def _start(sandbox: EnvdSandbox, main: str, cwd: str) -> Kernel:
    transport, program = await spawn_program(sandbox, main)
    kernel = Kernel(transport)
    try:
        await kernel.start(program + orjson.dumps({"cwd": cwd}) + b"\n")
    except BaseException:
        await kernel.close()
        raise
    return kernel
