"""What a guest's bytes come to, as :meth:`cube.cubelet.runtime.microvm.mux.Mux.feed` tells it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cube.cubelet.runtime.microvm.frames import ChannelType


@dataclass(frozen=True, slots=True)
class Started:
    """The guest has begun the session that was asked for."""


@dataclass(frozen=True, slots=True)
class Received:
    """A whole message, and the channels that came with it."""

    kind: int
    id: int
    body: bytes
    channels: list[tuple[int, ChannelType]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes from a channel, in their order."""

    channel: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more will come from the channel."""

    channel: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The channel is gone in the guest."""

    channel: int


@dataclass(frozen=True, slots=True)
class Room:
    """The guest has taken bytes: more may be sent."""

    channel: int


Event = Started | Received | Data | Ended | Closed | Room
