"""What a guest says of the processes and channels that it has; as hostile as everything else that it says."""

from __future__ import annotations

from dataclasses import dataclass

from cube.cubelet.runtime.guest.link import Message
from cube.cubelet.runtime.guest.wire import Reader, WireError
from cube.cubelet.runtime.microvm.frames import ChannelType
from cube.cubelet.runtime.microvm.mux import MAX_CHANNELS

_STDIO = 3
_MAX_OFFSET = 2**62


@dataclass(frozen=True, slots=True)
class LiveProcess:
    """A process and the channels of its stdio: a terminal, or [input,] output and error."""

    pid: int
    note: bytes
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LiveChannel:
    """A channel: from which byte on its output is kept, and how much of its input has come."""

    number: int
    type: ChannelType
    kept_from: int
    taken: int


@dataclass(frozen=True, slots=True)
class Live:
    """All of them, by their numbers."""

    processes: dict[int, LiveProcess]
    channels: dict[int, LiveChannel]

    @classmethod
    def decode(cls, message: Message) -> Live:
        """Raises ``WireError``."""
        reader = Reader(message.body)
        processes = reader.items(lambda: _process(reader), item_size=12)
        channels = reader.items(lambda: _channel(reader), item_size=24)
        reader.end()
        if len(channels) > MAX_CHANNELS:
            raise WireError(f"a guest with {len(channels)} channels")
        return cls({one.pid: one for one in processes}, {one.number: one for one in channels})


def _process(reader: Reader) -> LiveProcess:
    process = LiveProcess(reader.u32(), reader.data(), tuple(reader.items(reader.u32)))
    if len(process.channels) > _STDIO:
        raise WireError("a process with more than three streams")
    return process


def _channel(reader: Reader) -> LiveChannel:
    number, kind, kept_from, taken = reader.u32(), reader.u32(), reader.u64(), reader.u64()
    if number == 0 or kind not in list(ChannelType) or max(kept_from, taken) > _MAX_OFFSET:
        raise WireError("a channel that cannot be")
    return LiveChannel(number, ChannelType(kind), kept_from, taken)
