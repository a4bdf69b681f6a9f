"""What a kernel says, checked: every line comes from a sandbox, so nothing about it is taken for granted.

A line that is not exactly what the protocol (:mod:`cube.envd.interpreter.kernels`) allows is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import orjson

#: Longest line of a kernel, in bytes; ``kernels.channel.MAX_LINE`` stays below it.
MAX_LINE = 11 * 1024 * 1024
#: Most representations of one result.
MAX_REPRESENTATIONS = 64

_MAX_NUMBER = 2**53


@dataclass(frozen=True, slots=True)
class Ready:
    """The kernel takes requests; ``pid`` is its number inside the sandbox."""

    pid: int


@dataclass(frozen=True, slots=True)
class Fatal:
    """The kernel cannot run, and says why."""

    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A kernel host could not fork for the process ``holder``."""

    holder: int
    message: str


@dataclass(frozen=True, slots=True)
class Started:
    """An execution has begun; ``count`` is the number that the shell gives it."""

    id: int
    count: int


@dataclass(frozen=True, slots=True)
class Text:
    """Something was written to stdout or stderr."""

    stream: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A value in its representations by MIME type; ``main`` marks the value of the cell."""

    main: bool
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The code raised."""

    name: str
    value: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Done:
    """An execution has ended."""

    id: int


Event = Ready | Fatal | Refused | Started | Text | Shown | Failed | Done


def decode(line: bytes) -> Event | None:
    """The event in a line, ``None`` when it is not one."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    builder = _BUILDERS.get(kind) if isinstance(kind, str) else None
    return builder(value) if builder else None


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < _MAX_NUMBER else None


def _ready(value: dict[str, Any]) -> Event | None:
    pid = _number(value.get("pid"))
    return None if pid is None else Ready(pid)


def _fatal(value: dict[str, Any]) -> Event | None:
    message = value.get("message")
    return Fatal(message[:2000]) if isinstance(message, str) else None


def _refused(value: dict[str, Any]) -> Event | None:
    holder, message = _number(value.get("holder")), value.get("message")
    return Refused(holder, message[:2000]) if holder is not None and isinstance(message, str) else None


def _started(value: dict[str, Any]) -> Event | None:
    number, count = _number(value.get("id")), _number(value.get("count"))
    return None if number is None or count is None else Started(number, count)


def _text(value: dict[str, Any]) -> Event | None:
    text = value.get("text")
    return Text(cast(Literal["stdout", "stderr"], value["type"]), text) if isinstance(text, str) else None


def _shown(value: dict[str, Any]) -> Event | None:
    main, data = value.get("main"), value.get("data")
    valid = isinstance(main, bool) and isinstance(data, dict) and len(data) <= MAX_REPRESENTATIONS
    return Shown(cast(bool, main), cast(dict[str, Any], data)) if valid else None


def _failed(value: dict[str, Any]) -> Event | None:
    name, text, traceback = value.get("name"), value.get("value"), value.get("traceback")
    if isinstance(name, str) and isinstance(text, str) and isinstance(traceback, str):
        return Failed(name, text, traceback)
    return None


def _done(value: dict[str, Any]) -> Event | None:
    number = _number(value.get("id"))
    return None if number is None else Done(number)


_BUILDERS: dict[str, Callable[[dict[str, Any]], Event | None]] = {
    "ready": _ready,
    "fatal": _fatal,
    "refused": _refused,
    "started": _started,
    "stdout": _text,
    "stderr": _text,
    "result": _shown,
    "error": _failed,
    "done": _done,
}
