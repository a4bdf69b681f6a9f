"""Output of one process between its pipes and its readers, with a bound on what is held; pure state, no I/O.

The rules:

* Output is held until it has been delivered. A reader that attaches begins after the last byte that any reader
  before it has received, so a client that reconnects gets what the earlier one did not, exactly once.
* Several readers at a time each get all output from where they began.
* With a reader attached nothing is lost: when the slowest reader is ``capacity`` behind, :attr:`OutputLog.full` says so
  and the pipes are not read until it catches up, so the process feels the pressure.
* With none attached the process is never held up: beyond ``capacity`` the oldest output is dropped.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum


class Channel(Enum):
    """Where output came from; the value is the field of E2B's ``DataEvent``."""

    STDOUT = "stdout"
    STDERR = "stderr"
    TERMINAL = "pty"


#: Most bytes in one event, as envd sends them.
EVENT_LIMIT = {Channel.STDOUT: 32 * 1024, Channel.STDERR: 32 * 1024, Channel.TERMINAL: 16 * 1024}

#: What a chunk costs beside its bytes, so that many tiny chunks are bounded too.
_CHUNK_COST = 128
_MERGE_LIMIT = 32 * 1024


@dataclass(slots=True)
class _Chunk:
    start: int
    channel: Channel
    data: bytearray

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class OutputLog:
    """Chunks in order of arrival, addressed by their offset in the whole output."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        #: Bytes that were dropped because nobody listened.
        self.dropped = 0
        self._chunks: list[_Chunk] = []
        self._readers: list[OutputReader] = []
        self._end = 0
        self._delivered = 0

    @property
    def held(self) -> int:
        """Bytes held, the cost of chunks included."""
        if not self._chunks:
            return 0
        return self._end - self._chunks[0].start + _CHUNK_COST * len(self._chunks)

    @property
    def listened(self) -> bool:
        """Whether a reader is attached."""
        return bool(self._readers)

    @property
    def full(self) -> bool:
        """Whether the pipes must wait for the slowest reader."""
        return self.listened and self.held >= self.capacity

    def append(self, channel: Channel, data: bytes) -> None:
        """Add output; what it costs when nobody listens is paid with the oldest."""
        last = self._chunks[-1] if self._chunks else None
        if last and last.channel is channel and len(last.data) + len(data) <= _MERGE_LIMIT:
            last.data += data
        else:
            self._chunks.append(_Chunk(self._end, channel, bytearray(data)))
        self._end += len(data)
        if not self._readers:
            self._drop_oldest()

    def attach(self) -> OutputReader:
        """A reader that begins with the first byte nobody has received yet."""
        first = self._chunks[0].start if self._chunks else self._end
        reader = OutputReader(self, max(first, self._delivered))
        self._readers.append(reader)
        return reader

    def _drop_oldest(self) -> None:
        while (excess := self.held - self.capacity) > 0:
            chunk = self._chunks[0]
            count = min(excess, len(chunk.data))
            self.dropped += count
            del chunk.data[:count]
            chunk.start += count
            if not chunk.data:
                del self._chunks[0]

    def _peek(self, position: int) -> tuple[Channel, bytes] | None:
        if position >= self._end:
            return None
        chunk = self._chunks[bisect_right(self._chunks, position, key=lambda chunk: chunk.start) - 1]
        offset = position - chunk.start
        return chunk.channel, bytes(chunk.data[offset : offset + EVENT_LIMIT[chunk.channel]])

    def _advanced(self, position: int) -> None:
        self._delivered = max(self._delivered, position)
        self._trim()

    def _detach(self, reader: OutputReader) -> None:
        if reader in self._readers:
            self._readers.remove(reader)
            self._trim()

    def _trim(self) -> None:
        needed = min((reader.position for reader in self._readers), default=self._delivered)
        count = 0
        while count < len(self._chunks) and self._chunks[count].end <= needed:
            count += 1
        del self._chunks[:count]
        if not self._readers:
            self._drop_oldest()


@dataclass(slots=True, eq=False)
class OutputReader:
    """One reader's place in the output."""

    _log: OutputLog = field(repr=False)
    position: int

    def peek(self) -> tuple[Channel, bytes] | None:
        """The next event's worth of output, ``None`` when there is none; stays the next until :meth:`advance`."""
        return self._log._peek(self.position)

    def advance(self, count: int) -> None:
        """Say that ``count`` bytes were delivered."""
        self.position += count
        self._log._advanced(self.position)

    def close(self) -> None:
        """Detach; may be called twice. What was not delivered stays for the next reader."""
        self._log._detach(self)
