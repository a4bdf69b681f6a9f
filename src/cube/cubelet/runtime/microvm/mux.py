"""The host's end of the channel to a microVM: frames on a stream of bytes, and the rules about them; no I/O.

The far end is as hostile as the sandbox: :meth:`Mux.feed` raises ``WireError`` for whatever breaks the rules, and then
the guest is dead to us. What is held here is bounded: by a frame, a message, and for each channel by
:data:`cube.cubelet.runtime.microvm.frames.WINDOW`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence

from cube.cubelet.runtime.guest.wire import BODY_MAX, WireError
from cube.cubelet.runtime.microvm.frames import (
    FRAME_MAX,
    HEADER,
    MARK,
    MORE,
    OFFSETS,
    PAIR,
    TRAILER,
    U32,
    ChannelType,
    FrameType,
    pack,
    parts_of,
)
from cube.cubelet.runtime.microvm.mux_channel import MuxChannel
from cube.cubelet.runtime.microvm.mux_events import Closed, Data, Ended, Event, Received, Room, Started

#: Channels that one guest may have.
MAX_CHANNELS = 4096
#: What an earlier session may have left on its way, in bytes.
LEFTOVER_MAX = 32 * 1024 * 1024

VERSION = 1
NONCE = 16
_MAX_ATTACHED = 32
_ENVELOPE = U32.size + _MAX_ATTACHED * PAIR.size + PAIR.size


class Mux:
    """The state of one guest's channel over any number of sessions."""

    def __init__(self) -> None:
        self._channels: dict[int, MuxChannel] = {}
        self._in = bytearray()
        self._out = bytearray()
        self._message = bytearray()
        self._nonce = b""
        self._asked = 0
        self._skipped = 0
        self.in_session = False

    # -- what goes out -------------------------------------------------------------------------------------------

    def take_output(self) -> bytes:
        """What is to be written to the guest now; it is not kept here."""
        output = bytes(self._out)
        self._out.clear()
        return output

    @property
    def pending(self) -> int:
        """Bytes that :meth:`take_output` would give."""
        return len(self._out)

    def begin(self) -> None:
        """Ask for a session on a new connection. Channels that are open here stay so, and wait for :meth:`attach`."""
        self.in_session = False
        self._in.clear()
        self._out.clear()
        self._message.clear()
        self._skipped = self._asked = 0
        self._nonce = os.urandom(NONCE)
        for channel in self._channels.values():
            channel.attached = False
        self.ask()

    def ask(self) -> None:
        """Say once more that a session is wanted, for a guest that has not heard it; each asking may be answered."""
        self._asked += 1
        self._out += MARK + self._hello()

    def _hello(self) -> bytes:
        return pack(FrameType.HELLO, 0, U32.pack(VERSION) + self._nonce)

    def send_message(self, kind: int, request_id: int, body: bytes, channels: Sequence[int] = ()) -> None:
        """Send a message with channels that go with it."""
        content = U32.pack(len(channels)) + b"".join(PAIR.pack(number, 0) for number in channels)
        content += PAIR.pack(kind, request_id) + body
        parts = list(parts_of(content))
        for part in parts[:-1]:
            self._frame(FrameType.MESSAGE, 0, part, MORE)
        self._frame(FrameType.MESSAGE, 0, parts[-1])

    def room(self, number: int) -> int:
        """How many bytes may be sent to a channel now."""
        channel = self._channels.get(number)
        return 0 if channel is None else channel.room

    def send_data(self, number: int, data: bytes) -> None:
        """Send bytes, at most :meth:`room`."""
        channel = self._channels.get(number)
        if channel is None:
            raise ValueError(f"there is no channel {number}")
        channel.send(data)
        self._data(number, data)

    def confirm(self, number: int, size: int) -> None:
        """That many more bytes have been delivered: the guest may send as many more."""
        channel = self._channels.get(number)
        if channel is not None:
            channel.delivered += size
            if channel.attached:
                self._frame(FrameType.CREDIT, number, OFFSETS.pack(channel.delivered, channel.delivered))

    def end(self, number: int) -> None:
        """Nothing more will be sent to the channel; it is forgotten when the guest has taken everything."""
        channel = self._channels.get(number)
        if channel is not None and not channel.end_sent:
            channel.end_sent = True
            self._frame(FrameType.END, number)
            self._forget_if_done(number, channel)

    def close(self, number: int) -> None:
        """Let the guest close the channel, and forget it."""
        if self._channels.pop(number, None) is not None:
            self._frame(FrameType.CLOSE, number)

    def drop(self, number: int) -> None:
        """Let the guest close a channel that was never opened here."""
        self._frame(FrameType.CLOSE, number)

    def open(self, number: int, kind: ChannelType, *, came: int = 0, sent: int = 0) -> None:
        """Follow a channel of an earlier session, from these offsets on; :meth:`attach` has to follow.

        Raises ``WireError`` when it is open here already, or too many are.
        """
        self._check_new(number)
        self._channels[number] = MuxChannel(
            kind, came=came, delivered=came, sent=sent, taken=sent, written=sent, attached=False
        )

    def attach(self, number: int) -> None:
        """In a new session: go on with a channel. What had come and was not confirmed comes again."""
        channel = self._channels[number]
        channel.attach()
        self._frame(FrameType.ATTACH, number, OFFSETS.pack(channel.came, 0))

    def has(self, number: int) -> bool:
        """Whether a channel is open here."""
        return number in self._channels

    def channels(self) -> list[int]:
        """Those that are open here."""
        return list(self._channels)

    def _data(self, number: int, data: bytes) -> None:
        for part in parts_of(data):
            self._frame(FrameType.DATA, number, part)

    def _frame(self, kind: FrameType, number: int, payload: bytes = b"", flags: int = 0) -> None:
        self._out += pack(kind, number, payload, flags)

    # -- what comes in -------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take bytes of the guest; the events must be consumed. Raises ``WireError``."""
        self._in += data
        if not self.in_session:
            if not self._find_hello():
                return
            self.in_session = True
            yield Started()
        at = 0
        try:
            while (end := self._frame_end(at)) is not None:
                begin, at = at, end
                if self._in[begin] != MARK[0]:
                    yield from self._take(begin, end)
        finally:
            del self._in[:at]

    def _find_hello(self) -> bool:
        """Whether the answer to our hello is there; everything up to its end is thrown away."""
        wanted = MARK + self._hello()
        at = self._in.find(wanted)
        useless = at + len(wanted) if at >= 0 else max(0, len(self._in) - len(wanted) + 1)
        self._skipped += useless
        del self._in[:useless]
        if self._skipped > LEFTOVER_MAX:
            raise WireError("the guest sends without end and does not begin a session")
        self._asked -= at >= 0
        return at >= 0

    def _repeated_hello(self, at: int) -> int | None:
        """Where one more answer to our asking ends, ``None`` while it is not complete."""
        wanted = MARK + self._hello()
        there = bytes(self._in[at : at + len(wanted)])
        if self._asked == 0 or not wanted.startswith(there):
            raise WireError("the guest has begun anew")
        if len(there) < len(wanted):
            return None
        self._asked -= 1
        return at + len(wanted)

    def _frame_end(self, at: int) -> int | None:
        """Where the frame at ``at`` ends; ``None`` when it is not complete."""
        if len(self._in) - at < HEADER.size:
            return None
        if self._in[at] == MARK[0]:
            return self._repeated_hello(at)
        kind, _, _, _, size = HEADER.unpack_from(self._in, at)
        if size > FRAME_MAX or kind not in _FROM_GUEST:
            raise WireError(f"a frame of type {kind} and {size} bytes")
        end = at + HEADER.size + int(size) + 1
        if len(self._in) < end:
            return None
        if self._in[end - 1 : end] != TRAILER:
            raise WireError("a frame has no end")
        return end

    def _take(self, begin: int, end: int) -> Iterator[Event]:
        kind, flags, _, number, _ = HEADER.unpack_from(self._in, begin)
        payload = bytes(self._in[begin + HEADER.size : end - 1])
        if kind == FrameType.MESSAGE:
            yield from self._message_part(payload, more=bool(flags & MORE))
            return
        channel = self._channels.get(number)
        if channel is None:
            return  # closed here while it was on its way
        match kind:
            case FrameType.DATA:
                channel.take(payload)
                yield Data(number, payload)
            case FrameType.CREDIT:
                self._credited(number, channel, payload)
                yield Room(number)
            case FrameType.END:
                channel.finish()
                yield Ended(number)
            case FrameType.CLOSE:
                del self._channels[number]
                yield Closed(number)

    def _message_part(self, payload: bytes, *, more: bool) -> Iterator[Event]:
        self._message += payload
        if len(self._message) > BODY_MAX + _ENVELOPE:
            raise WireError("a message is longer than any may be")
        if not more:
            content, self._message = bytes(self._message), bytearray()
            yield self._received(content)

    def _received(self, content: bytes) -> Received:
        try:
            (count,) = U32.unpack_from(content)
            if count > _MAX_ATTACHED:
                raise WireError(f"a message with {count} channels")
            pairs = [PAIR.unpack_from(content, U32.size + i * PAIR.size) for i in range(count)]
            at = U32.size + count * PAIR.size
            kind, request_id = PAIR.unpack_from(content, at)
        except struct.error:
            raise WireError("a message is shorter than its header") from None
        channels = [self._announced(number, kind) for number, kind in pairs]
        return Received(kind, request_id, content[at + PAIR.size :], channels)

    def _announced(self, number: int, kind: int) -> tuple[int, ChannelType]:
        self._check_new(number)
        try:
            known = ChannelType(kind)
        except ValueError:
            raise WireError(f"a channel of type {kind}") from None
        self._channels[number] = MuxChannel(known)
        return number, known

    def _check_new(self, number: int) -> None:
        if number == 0 or number in self._channels:
            raise WireError(f"channel {number} cannot be opened")
        if len(self._channels) >= MAX_CHANNELS:
            raise WireError(f"more than {MAX_CHANNELS} channels")

    def _credited(self, number: int, channel: MuxChannel, payload: bytes) -> None:
        channel.credit(payload)
        if not channel.attached:
            self._resend(number, channel)
        self._forget_if_done(number, channel)

    def _resend(self, number: int, channel: MuxChannel) -> None:
        channel.attached = True
        if channel.kept:
            self._data(number, bytes(channel.kept))
        if channel.end_sent:
            self._frame(FrameType.END, number)

    def _forget_if_done(self, number: int, channel: MuxChannel) -> None:
        if channel.done:
            del self._channels[number]


_FROM_GUEST = frozenset(FrameType) - {FrameType.HELLO, FrameType.ATTACH}
