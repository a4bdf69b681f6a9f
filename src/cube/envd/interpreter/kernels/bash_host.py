"""The bash kernel: one bash that keeps its variables, functions and directory from cell to cell.

A cell whose last command fails ends with an error of the name ``ExitCode`` and the code as its value. ``exit`` ends the
bash; the next cell finds a new one.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import Any

from .channel import Channel
from .streams import Capture
from .supervisor import Child, ChildEnded, Failure, run_host

#: Cells arrive with a NUL behind each. They are sourced, not evaluated, because ``return`` in the trap then ends the
#: whole cell; bash forgets that it may run the trap again after that, so every cell sets it anew.
_LOOP = """
shopt -s expand_aliases
while IFS= read -r -d '' __cube_cell <&{requests}; do
  trap 'return 130' INT
  source /dev/fd/{script} {script}<<<"$__cube_cell"
  printf '%d\\n' "$?" >&{answers}
done
"""
_SCRIPT_FD = 199
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class BashDriver:
    """Runs cells in a bash, and starts another one when it has ended."""

    def __init__(self) -> None:
        self._child = _bash()

    def run(self, request: dict[str, Any]) -> Failure | None:
        """Run a cell with its variables set around it."""
        variables = {name: value for name, value in request["env"].items() if _NAME.match(name)}
        try:
            self._source(export(variables))
            status = self._source(request["code"].replace("\0", ""))
            self._source(restore(variables))
        except ChildEnded as end:
            self._child.close()
            self._child = _bash()
            return None if end.status == 0 else ("ExitCode", str(end.status), f"bash ended with status {end.status}")
        return None if status == 0 else ("ExitCode", str(status), f"The last command ended with exit code {status}")

    def interrupt(self) -> None:
        """Interrupt the foreground commands and the cell."""
        self._child.interrupt()

    def set_environment(self, variables: dict[str, str]) -> None:
        """Set variables for good."""
        named = {name: value for name, value in variables.items() if _NAME.match(name)}
        self._between(" ".join(f"export {name}={shlex.quote(value)};" for name, value in named.items()))

    def reseed(self) -> None:
        """``$RANDOM`` is the only generator that bash seeds itself."""
        self._between(f"RANDOM={int.from_bytes(os.urandom(4), 'big')}")

    def _between(self, script: str) -> None:
        try:
            self._source(script)
        except ChildEnded:
            self._child.close()
            self._child = _bash()

    def _source(self, script: str) -> int:
        if not script:
            return 0
        self._child.send(script.encode("utf-8", "surrogateescape") + b"\0")
        return int(self._child.read_line())


def _bash() -> Child:
    def command(requests: int, answers: int) -> list[str]:
        loop = _LOOP.format(requests=requests, answers=answers, script=_SCRIPT_FD)
        return ["bash", "--norc", "--noprofile", "-c", loop, "bash"]

    return Child(command)


def export(variables: dict[str, str]) -> str:
    """A script that sets variables and remembers what they were."""
    return "\n".join(
        f"__cube_was_{name}=${{{name}+x${name}}}; export {name}={shlex.quote(value)}"
        for name, value in variables.items()
    )


def restore(variables: dict[str, str]) -> str:
    """A script that undoes :func:`export`."""
    lines = (
        f"if [[ -n $__cube_was_{name} ]]; then {name}=${{__cube_was_{name}#x}}; else unset {name}; fi\n"
        f"unset __cube_was_{name}"
        for name in variables
    )
    return "\n".join(lines)


def _driver(channel: Channel, capture: Capture) -> BashDriver:
    return BashDriver()


def main() -> None:
    """Serve a bash context."""
    run_host(_driver)
