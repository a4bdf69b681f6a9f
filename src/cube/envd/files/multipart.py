"""A parser for ``multipart/form-data`` (RFC 7578) that streams; pure, no I/O.

Our own because E2B's clients put whole paths into ``filename``, which the usual parsers cut to the last component,
and because a file must never be held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from cube.envd.files.parameters import header_parameters
from cube.envd.guest import Buffer
from cube.model.errors import InvalidInput

#: Bytes of headers that one part may have.
HEADER_LIMIT = 16 * 1024
#: Parts in one body.
PART_LIMIT = 10_000
#: RFC 2046 says 70; clients are more generous.
BOUNDARY_LIMIT = 200


@dataclass(frozen=True, slots=True)
class PartBegin:
    """A part follows. ``filename`` is ``None`` when the part is a plain field."""

    name: str
    filename: str | None


@dataclass(frozen=True, slots=True)
class PartData:
    """Some of the content of the current part, never empty. It may be a part of what was fed, and as short-lived."""

    data: Buffer


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The current part is complete."""


Event = PartBegin | PartData | PartEnd


class _State(Enum):
    PREAMBLE = auto()
    AFTER_BOUNDARY = auto()
    HEADERS = auto()
    CONTENT = auto()
    EPILOGUE = auto()


class MultipartParser:
    """Feed it the body with :meth:`feed`, then call :meth:`finish`.

    Both raise ``InvalidInput`` for a malformed body.
    """

    def __init__(self, boundary: str) -> None:
        if not 0 < len(boundary) <= BOUNDARY_LIMIT or not boundary.isascii():
            raise InvalidInput("the boundary of the multipart body is missing or too long", field="Content-Type")
        self._delimiter = b"\r\n--" + boundary.encode()
        # The first boundary may stand at the very start; with this line end it looks like all the others.
        self._buffer = bytearray(b"\r\n")
        self._fed = 0
        self._state = _State.PREAMBLE
        self._parts = 0

    @property
    def position(self) -> int:
        """How many bytes of the body the events so far have told of."""
        return self._fed - len(self._buffer)

    def feed(self, data: bytes | bytearray) -> Iterator[Event]:
        """What the next bytes of the body say."""
        self._fed += len(data)
        if self._state is _State.CONTENT and not self._buffer and self._delimiter not in data:
            yield from self._content_alone(data)
            return
        self._buffer += data
        while (events := self._step()) is not None:
            yield from events

    def finish(self) -> None:
        """Say that the body is complete."""
        if self._state is not _State.EPILOGUE:
            raise InvalidInput("the multipart body ends before its last boundary")

    def _step(self) -> list[Event] | None:
        """Events of one step forward, ``None`` when more bytes are needed."""
        match self._state:
            case _State.PREAMBLE:
                return self._preamble()
            case _State.AFTER_BOUNDARY:
                return self._after_boundary()
            case _State.HEADERS:
                return self._headers()
            case _State.CONTENT:
                return self._content()
            case _State.EPILOGUE:
                self._buffer.clear()
                return None

    def _preamble(self) -> list[Event] | None:
        if not self._until_delimiter()[1]:
            return None
        self._state = _State.AFTER_BOUNDARY
        return []

    def _after_boundary(self) -> list[Event] | None:
        if self._buffer[:2] == b"--":
            self._state = _State.EPILOGUE
            return []
        end = self._buffer.find(b"\r\n")
        if end < 0:
            self._check_header_size()
            return None
        if self._buffer[:end].strip(b" \t"):
            raise InvalidInput("a boundary of the multipart body is followed by other text")
        # The line end stays: a part without headers has its empty line right here.
        del self._buffer[:end]
        self._state = _State.HEADERS
        return []

    def _headers(self) -> list[Event] | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            self._check_header_size()
            return None
        if end > HEADER_LIMIT:
            self._check_header_size()
        block = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        self._state = _State.CONTENT
        self._parts += 1
        if self._parts > PART_LIMIT:
            raise InvalidInput(f"the multipart body has more than {PART_LIMIT} parts")
        return [_part_begin(block)]

    def _content(self) -> list[Event] | None:
        data, found = self._until_delimiter()
        events: list[Event] = [PartData(data)] if data else []
        if not found:
            return events or None
        self._state = _State.AFTER_BOUNDARY
        return [*events, PartEnd()]

    def _content_alone(self, data: bytes | bytearray) -> Iterator[Event]:
        """Pass on content that is in nobody's way, without a copy."""
        certain = len(data) - self._held_back(data)
        self._buffer += data[certain:]
        if certain:
            yield PartData(memoryview(data)[:certain])

    def _held_back(self, data: bytes | bytearray) -> int:
        """How many bytes at the end may be the beginning of a delimiter, which has its only CR in front."""
        begun = data.rfind(b"\r", max(0, len(data) - len(self._delimiter) + 1))
        return len(data) - begun if begun >= 0 and self._delimiter.startswith(data[begun:]) else 0

    def _until_delimiter(self) -> tuple[bytes, bool]:
        """Take what certainly comes before the next delimiter, and the delimiter if it is there."""
        end = self._buffer.find(self._delimiter)
        taken = end if end >= 0 else len(self._buffer) - self._held_back(self._buffer)
        data = bytes(memoryview(self._buffer)[:taken])
        del self._buffer[: taken + (len(self._delimiter) if end >= 0 else 0)]
        return data, end >= 0

    def _check_header_size(self) -> None:
        if len(self._buffer) > HEADER_LIMIT:
            raise InvalidInput(f"the headers of a part are longer than {HEADER_LIMIT} bytes")


def _part_begin(block: bytes) -> PartBegin:
    try:
        lines = block.decode().split("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidInput("the headers of a part are not UTF-8") from error
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            kind, parameters = header_parameters(value)
            if kind == "form-data":
                return PartBegin(parameters.get("name", ""), parameters.get("filename"))
    raise InvalidInput("a part has no Content-Disposition of the form-data kind")
