"""QMP, the language in which QEMU is told what to do: bytes in, messages out; no socket is touched here.

One JSON object per line in either direction. QEMU greets first, then takes ``qmp_capabilities``, then commands; it
answers each under its ``id`` and tells of events in between. A process that a guest may have taken over is at the other
end: whatever does not follow the rules ends the conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count
from typing import Any, Final

import orjson

from cube.model.errors import HostError

#: Longest message that is taken, in bytes; those that we ask for are a few kilobytes.
LONGEST: Final = 1 << 20


class QmpError(HostError):
    """QEMU did not speak QMP; nothing it says is to be believed any more."""


class CommandFailed(HostError):
    """QEMU refused a command, and says why."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"QEMU refused {command}: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened in the machine."""

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of the command with this number."""

    number: int
    value: Any = None
    #: Why it was refused; ``None`` when it was carried out.
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """QEMU has greeted and agreed; commands may be sent from now on."""

    version: str


class State(Enum):
    """How far the conversation is."""

    GREETING = auto()
    NEGOTIATING = auto()
    READY = auto()


class Protocol:
    """One conversation. ``to_send`` collects what is to be written; ``feed`` takes what was read."""

    def __init__(self, state: State = State.GREETING) -> None:
        """``state`` is ``READY`` where a conversation goes on that another has begun."""
        self.state = state
        self._buffer = bytearray()
        self._numbers = count(1)
        self._version = ""
        self._expected: set[int] = set()
        self._outgoing = bytearray()

    def to_send(self) -> bytes:
        """Take what must be written now."""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    def command(self, name: str, arguments: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """The number and the bytes of a command. Raises ``QmpError`` before :class:`Ready` came."""
        if self.state is not State.READY:
            raise QmpError("QEMU is not ready for commands yet")
        return self._encode(name, arguments or {})

    def feed(self, data: bytes) -> list[Event | Answer | Ready]:
        """What these bytes complete, in order. Raises ``QmpError``."""
        self._buffer += data
        found = []
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).strip()
            del self._buffer[: end + 1]
            if line and (message := self._message(line)) is not None:
                found.append(message)
        if len(self._buffer) > LONGEST:
            raise QmpError("QEMU sends a message without an end")
        return found

    def _encode(self, name: str, arguments: Mapping[str, Any]) -> tuple[int, bytes]:
        number = next(self._numbers)
        self._expected.add(number)
        return number, orjson.dumps({"execute": name, "arguments": arguments, "id": number}) + b"\n"

    def _message(self, line: bytes) -> Event | Answer | Ready | None:
        try:
            message = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise QmpError("QEMU sends something that is not JSON") from error
        if not isinstance(message, dict):
            raise QmpError("QEMU sends something that is no object")
        if "event" in message:
            return _event(message)
        if self.state is State.GREETING:
            self._greeted(message)
            return None
        answer = self._answer(message)
        return answer if self.state is State.READY else self._negotiated(answer)

    def _greeted(self, message: dict[str, Any]) -> None:
        try:
            version = message["QMP"]["version"]["qemu"]
            self._version = ".".join(str(int(version[part])) for part in ("major", "minor", "micro"))
        except (KeyError, TypeError, ValueError) as error:
            raise QmpError("QEMU's greeting makes no sense") from error
        self.state = State.NEGOTIATING
        self._outgoing += self._encode("qmp_capabilities", {})[1]

    def _negotiated(self, answer: Answer) -> Ready:
        if answer.refused is not None:
            raise QmpError(f"QEMU does not agree: {answer.refused}")
        self.state = State.READY
        return Ready(self._version)

    def _answer(self, message: dict[str, Any]) -> Answer:
        number = message.get("id")
        if not isinstance(number, int) or number not in self._expected:
            raise QmpError("QEMU answers what it was not asked")
        self._expected.discard(number)
        if "return" in message:
            return Answer(number, message["return"])
        error = message.get("error")
        if not isinstance(error, dict):
            raise QmpError("QEMU's answer has neither a result nor an error")
        return Answer(number, refused=str(error.get("desc", "no reason given"))[:500])


def _event(message: dict[str, Any]) -> Event:
    name, data = message["event"], message.get("data", {})
    if not isinstance(name, str) or not isinstance(data, dict):
        raise QmpError("QEMU tells of an event that makes no sense")
    return Event(name, data)
