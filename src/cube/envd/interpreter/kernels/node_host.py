"""The JavaScript and TypeScript kernel: one node that keeps its variables from cell to cell, by ``node_program.js``."""

from __future__ import annotations

import json
import sys
from typing import Any

from .answering import AnsweringDriver, require
from .channel import Channel
from .streams import Capture
from .supervisor import Child, run_host


def _node() -> Child:
    source = sys.modules["__main__"].sources["node_program.js"]
    program = f"(function () {{{source}\n}})()"  # a scope of its own: cells share the global one

    def command(requests: int, answers: int) -> list[str]:
        return ["node", "--no-warnings", "-e", program, str(requests), str(answers)]

    return Child(command)


def _request(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode() + b"\n"


def _driver(channel: Channel, capture: Capture) -> AnsweringDriver:
    require("node", "nodejs")
    return AnsweringDriver(channel, capture, "node", _node, _request, lambda: "")


def main() -> None:
    """Serve a JavaScript context."""
    run_host(_driver)
