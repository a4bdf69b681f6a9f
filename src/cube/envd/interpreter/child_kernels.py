"""Kernels that are one program each, under a small Python supervisor in the sandbox."""

from __future__ import annotations

import orjson

from cube.envd.interpreter.kernel import Kernel
from cube.envd.interpreter.languages import Language
from cube.envd.interpreter.processes import spawn_program
from cube.envd.sandboxes import EnvdSandbox

#: The program that supervises each of them, a module of :mod:`cube.envd.interpreter.kernels`.
_HOSTS = {
    Language.BASH: "bash_host",
    Language.JAVASCRIPT: "node_host",
    Language.R: "r_host",
    Language.JAVA: "java_host",
}


async def start_child(sandbox: EnvdSandbox, language: Language, cwd: str) -> Kernel:
    """A kernel that feeds cells to one program of the language. Raises ``CubeError``, ``InvalidInput`` where the image
    lacks the program."""
    transport, program = await spawn_program(sandbox, _HOSTS[language.kernel])
    kernel = Kernel(transport)
    try:
        await kernel.start(program + orjson.dumps({"cwd": cwd}) + b"\n")
    except BaseException:
        await kernel.close()
        raise
    return kernel
