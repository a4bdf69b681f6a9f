"""The R kernel: one R that keeps its variables from cell to cell, by ``r_program.r``."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

from .answering import AnsweringDriver, require
from .channel import Channel
from .streams import Capture
from .supervisor import Child, run_host

_OPTIONS = ("--no-echo", "--no-restore", "--no-save", "--no-readline")


class _Place:
    """A directory for the program, the cells and the pictures that they draw."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="r-kernel-")
        self._program = self._write("program.r", sys.modules["__main__"].sources["r_program.r"])

    def child(self) -> Child:
        def command(requests: int, answers: int) -> list[str]:
            arguments = (str(requests), str(answers), self._directory)
            return ["R", *_OPTIONS, "-f", self._program, "--args", *arguments]

        return Child(command)

    def request(self, request: dict[str, Any]) -> bytes:
        """Where the code is, the variables as a list in R, and the number of the cell."""
        path = self._write("cell.r", request["code"])
        variables = ", ".join(f"{quoted(name)} = {quoted(value)}" for name, value in request["env"].items())
        return f"{path}\tlist({variables})\t{request['id']}\n".encode()

    def _write(self, name: str, text: str) -> str:
        path = os.path.join(self._directory, name)
        with open(path, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        return path


def quoted(text: str) -> str:
    """A string literal of R; whatever is not plain is written by its number."""
    plain = (c if c.isascii() and c.isalnum() else f"\\U{{{ord(c):x}}}" for c in text)
    return f'"{"".join(plain)}"'


def _reseeding() -> str:
    return f"set.seed({int.from_bytes(os.urandom(4), 'big') >> 1})"


def _driver(channel: Channel, capture: Capture) -> AnsweringDriver:
    require("R", "r-base-core")
    place = _Place()
    return AnsweringDriver(channel, capture, "R", place.child, place.request, _reseeding)


def main() -> None:
    """Serve an R context."""
    run_host(_driver)
