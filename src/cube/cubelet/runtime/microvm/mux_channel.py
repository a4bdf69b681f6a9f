"""One channel of a guest's connection: what has gone which way, and what a guest may do with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cube.cubelet.runtime.guest.wire import WireError
from cube.cubelet.runtime.microvm.frames import OFFSETS, WINDOW, ChannelType


@dataclass(slots=True)
class MuxChannel:
    """One direction or both of a channel; all numbers are offsets from its beginning.

    Methods that are told what the guest has sent raise ``WireError`` when it may not.
    """

    type: ChannelType
    #: From the guest: what has come, and what of it was delivered.
    came: int = 0
    delivered: int = 0
    ended: bool = False
    #: To the guest: what was sent, what of it the guest has, and what of that it has written.
    sent: int = 0
    taken: int = 0
    written: int = 0
    #: Sent and not taken: to be sent again in the next session.
    kept: bytearray = field(default_factory=bytearray)
    end_sent: bool = False
    #: Whether offsets of this session are known.
    attached: bool = True

    @property
    def room(self) -> int:
        """How many bytes may be sent now."""
        return WINDOW - (self.sent - self.written) if self.attached and not self.end_sent else 0

    @property
    def done(self) -> bool:
        """Whether nothing more will be heard of it: the guest forgets a sink that has ended with the last byte."""
        return self.end_sent and self.type is ChannelType.SINK and self.written == self.sent

    def send(self, data: bytes) -> None:
        """Note that bytes are sent; ``ValueError`` for more than there is room for."""
        if len(data) > self.room:
            raise ValueError("more data than the guest has room for")
        self.kept += data
        self.sent += len(data)

    def attach(self) -> None:
        """In a new session: what had come and was not delivered comes again."""
        self.came = self.delivered
        self.ended = False
        self.attached = not self.type.writable  # the offsets of the other direction have to be told first

    def take(self, payload: bytes) -> None:
        """The guest has sent bytes."""
        if not self.type.readable or self.ended or not payload:
            raise WireError("data from a channel that has none")
        self.came += len(payload)
        if self.came - self.delivered > WINDOW:
            raise WireError("more data than there is room for")

    def finish(self) -> None:
        """The guest has said that nothing more will come."""
        if not self.type.readable or self.ended:
            raise WireError("the end of a channel that has none")
        self.ended = True

    def credit(self, payload: bytes) -> None:
        """The guest has told what it has of what was sent to it."""
        if len(payload) != OFFSETS.size or not self.type.writable:
            raise WireError("a confirmation that makes no sense")
        written, taken = OFFSETS.unpack(payload)
        if not (self.written <= written <= taken <= self.sent and self.taken <= taken):
            raise WireError("a confirmation of what was not sent")
        del self.kept[: taken - self.taken]
        self.written, self.taken = written, taken
