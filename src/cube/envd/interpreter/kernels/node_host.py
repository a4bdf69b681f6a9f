"""The JavaScript and TypeScript kernel: one node that keeps its variables from cell to cell.

The program that node runs is ``node_program.js``; it answers each cell with lines of JSON: results, an error, the
end.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from .channel import Channel
from .streams import Capture
from .supervisor import Child, ChildEnded, Failure, run_host


class NodeDriver:
    """Runs cells in a node, and starts another one when it has ended."""

    def __init__(self, channel: Channel, capture: Capture) -> None:
        self._channel = channel
        self._capture = capture
        self._child = _node()

    def run(self, request: dict[str, Any]) -> Failure | None:
        """Run a cell."""
        try:
            self._child.send(json.dumps(request).encode() + b"\n")
            return self._answers()
        except ChildEnded as end:
            self._child.close()
            self._child = _node()
            return "ProcessExit", str(end.status), f"node ended with status {end.status}; the context starts afresh"

    def interrupt(self) -> None:
        """Interrupt the running script."""
        self._child.interrupt()

    def set_environment(self, variables: dict[str, str]) -> None:
        """Set variables for good."""
        self._between({"op": "environment", "variables": variables})

    def reseed(self) -> None:
        """Node cannot seed its generators anew: they are replaced."""
        self._between({"op": "reseed"})

    def _between(self, request: dict[str, Any]) -> None:
        try:
            self._child.send(json.dumps(request).encode() + b"\n")
            self._answers()
        except ChildEnded:
            self._child.close()
            self._child = _node()

    def _answers(self) -> Failure | None:
        failure = None
        while True:
            answer = json.loads(self._child.read_line())
            if answer["type"] == "done":
                return failure
            if answer["type"] == "error":
                failure = answer["name"], answer["value"], answer["traceback"]
            else:
                self._capture.drain()
                self._channel.send(answer)


def _node() -> Child:
    source = sys.modules["__main__"].sources["node_program.js"]
    program = f"(function () {{{source}\n}})()"  # a scope of its own: cells share the global one

    def command(requests: int, answers: int) -> list[str]:
        return ["node", "--no-warnings", "-e", program, str(requests), str(answers)]

    return Child(command)


def main() -> None:
    """Serve a JavaScript context."""
    run_host(NodeDriver)
