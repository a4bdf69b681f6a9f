"""The kernel of a language whose program answers each cell with lines of JSON: results, pictures, an error, the end."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

from .channel import Channel
from .results import Results
from .streams import Capture
from .supervisor import Child, ChildEnded, Failure


class AnsweringDriver:
    """Runs cells in a program, and starts another one when it has ended.

    ``start`` starts it; ``request`` writes a cell down as the program reads it; ``reseeding`` is code that gives its
    random generators new seeds. What comes back may be anything: the program runs the user's code, which can write to
    the same pipe.
    """

    def __init__(
        self,
        channel: Channel,
        capture: Capture,
        name: str,
        start: Callable[[], Child],
        request: Callable[[dict[str, Any]], bytes],
        reseeding: Callable[[], str],
    ) -> None:
        self._results = Results(channel, capture)
        self._name = name
        self._start = start
        self._request = request
        self._reseeding = reseeding
        self._child = start()

    def run(self, request: dict[str, Any]) -> Failure | None:
        """Run a cell."""
        try:
            self._child.send(self._request(request))
            return self._answers(request["id"])
        except ChildEnded as end:
            self._child.close()
            self._child = self._start()
            message = f"{self._name} ended with status {end.status}; the context starts afresh"
            return "ProcessExit", str(end.status), message

    def interrupt(self) -> None:
        """Interrupt the running cell."""
        self._child.interrupt()

    def set_environment(self, variables: dict[str, str]) -> None:
        """Set variables for good."""
        self._between({"op": "environment", "code": "", "env": variables, "variables": variables})

    def reseed(self) -> None:
        """Give the random generators of the program new seeds."""
        self._between({"op": "reseed", "code": self._reseeding(), "env": {}})

    def _between(self, request: dict[str, Any]) -> None:
        """Have something done that is no cell: its number is 0, by which the program keeps what it sets."""
        try:
            self._child.send(self._request({**request, "id": 0}))
            self._answers(0)
        except ChildEnded:
            self._child.close()
            self._child = self._start()

    def _answers(self, number: int) -> Failure | None:
        """What comes until the program says that the cell with this number is done; what forgers say is not that."""
        failure = None
        while True:
            answer = _parsed(self._child.read_line())
            kind = answer.get("type")
            if kind == "done" and answer.get("id") == number:
                return failure
            if kind == "error":
                failure = str(answer.get("name")), str(answer.get("value")), str(answer.get("traceback"))
            elif kind == "result" and isinstance(answer.get("data"), dict):
                self._results.send(answer["data"], main=answer.get("main") is True)
            elif kind == "picture" and isinstance(answer.get("path"), str):
                self._send_picture(answer["path"])

    def _send_picture(self, path: str) -> None:
        """Send a PNG file that the program has made for this, and remove it."""
        with contextlib.suppress(OSError):
            with open(path, "rb") as file:
                picture = base64.b64encode(file.read()).decode()
            os.unlink(path)
            self._results.send({"image/png": picture}, main=False)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def require(program: str, package: str) -> None:
    """Raise ``OSError`` with what to do when the image lacks a program."""
    if shutil.which(program) is None:
        raise OSError(f"the image has no {program}: add the Debian package {package} to the template")
