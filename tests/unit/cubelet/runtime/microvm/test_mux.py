"""The host's end of the channel: what a guest may do, and what ends it."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cube.cubelet.runtime.guest.wire import BODY_MAX, WireError
from cube.cubelet.runtime.microvm import mux as module
from cube.cubelet.runtime.microvm.frames import FRAME_MAX, MARK, WINDOW, ChannelType, FrameType
from cube.cubelet.runtime.microvm.mux import LEFTOVER_MAX, MAX_CHANNELS, Mux
from cube.cubelet.runtime.microvm.mux_events import Closed, Data, Ended, Event, Received, Room, Started

HEADER = struct.Struct("<BBHII")
OFFSETS = struct.Struct("<QQ")


def frame(kind: int, channel: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return HEADER.pack(kind, flags, 0, channel, len(payload)) + payload + b"\n"


def message(kind: int, request_id: int, body: bytes = b"", channels: Sequence[tuple[int, int]] = ()) -> bytes:
    pairs = b"".join(struct.pack("<II", *pair) for pair in channels)
    content = struct.pack("<I", len(channels)) + pairs + struct.pack("<II", kind, request_id) + body
    parts = [content[at : at + FRAME_MAX] for at in range(0, len(content), FRAME_MAX)]
    return b"".join(frame(FrameType.MESSAGE, 0, part, int(part is not parts[-1])) for part in parts)


def frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """What the host has sent: type, channel and payload of each frame."""
    found, at = [], 0
    while at < len(data):
        if data.startswith(MARK, at):
            at += len(MARK)
            continue
        kind, _, _, channel, size = HEADER.unpack_from(data, at)
        assert size <= FRAME_MAX
        payload = data[at + HEADER.size : at + HEADER.size + size]
        at += HEADER.size + size
        assert data[at : at + 1] == b"\n"
        at += 1
        found.append((kind, channel, payload))
    return found


def answer(mux: Mux) -> bytes:
    """The answer to the asking that it has just sent."""
    output = mux.take_output()
    at = output.rindex(MARK)
    return output[at:]


def begun(*opened: tuple[int, ChannelType]) -> Mux:
    """In a session, with these channels open."""
    mux = Mux()
    mux.begin()
    assert list(mux.feed(answer(mux))) == [Started()]
    if opened:
        list(mux.feed(message(1, 1, b"", opened)))
    return mux


def feed_all(mux: Mux, blocks: Sequence[bytes]) -> list[Event]:
    return [event for block in blocks for event in mux.feed(block)]


class TestSession:
    def test_nothing_happens_before_the_guest_has_answered(self) -> None:
        mux = Mux()
        mux.begin()
        assert list(mux.feed(b"garbage" * 1000)) == []
        assert list(mux.feed(frame(FrameType.DATA, 1, b"x"))) == []
        assert not mux.in_session

    def test_the_answer_may_come_in_pieces_and_after_leftovers(self) -> None:
        mux = Mux()
        mux.begin()
        stream = b"left over" + frame(FrameType.DATA, 9, b"old") + answer(mux) + message(7, 1, b"body")
        events: list[Event] = []
        for byte in stream:
            events += mux.feed(bytes([byte]))
        assert events == [Started(), Received(7, 1, b"body", [])]

    def test_the_answer_to_an_earlier_asking_does_not_count(self) -> None:
        mux = Mux()
        mux.begin()
        old = answer(mux)
        mux.begin()
        assert list(mux.feed(old)) == []
        assert list(mux.feed(answer(mux))) == [Started()]

    def test_each_asking_may_be_answered(self) -> None:
        mux = Mux()
        mux.begin()
        mux.ask()
        hello = answer(mux)
        assert list(mux.feed(hello + hello + message(7, 1))) == [Started(), Received(7, 1, b"", [])]

    def test_an_answer_to_nothing_ends_it(self) -> None:
        mux = Mux()
        mux.begin()
        hello = answer(mux)
        list(mux.feed(hello))
        with pytest.raises(WireError, match="begun anew"):
            list(mux.feed(hello))

    def test_a_guest_that_sends_without_end_is_given_up(self) -> None:
        mux = Mux()
        mux.begin()
        block = b"x" * (1 << 20)
        with pytest.raises(WireError, match="without end"):
            feed_all(mux, [block] * (LEFTOVER_MAX // len(block) + 2))

    def test_what_was_sent_before_is_not_sent_in_the_next_one(self) -> None:
        mux = begun((1, ChannelType.SINK))
        mux.send_data(1, b"lost")
        mux.begin()
        assert [kind for kind, _, _ in frames(mux.take_output())] == [FrameType.HELLO]


class TestMessages:
    @pytest.mark.parametrize("size", [0, 1, FRAME_MAX - 20, FRAME_MAX, 5 * FRAME_MAX + 3])
    def test_any_size_arrives(self, size: int) -> None:
        mux = begun()
        body = bytes(range(256)) * (size // 256 + 1)
        assert list(mux.feed(message(3, 9, body[:size]))) == [Received(3, 9, body[:size], [])]

    def test_channels_come_with_it(self) -> None:
        mux = begun()
        (event,) = mux.feed(message(3, 9, b"", [(5, 1), (6, 2)]))
        assert event == Received(3, 9, b"", [(5, ChannelType.SINK), (6, ChannelType.SOURCE)])
        assert mux.channels() == [5, 6]

    def test_a_sent_one_is_split_where_the_mark_would_occur(self) -> None:
        mux = begun()
        body = b"a" * (FRAME_MAX - 5) + MARK + MARK + b"b"
        mux.send_message(17, 3, body, [4])
        output = mux.take_output()
        assert MARK not in output
        content = b"".join(payload for _, _, payload in frames(output))
        assert content == struct.pack("<IIIII", 1, 4, 0, 17, 3) + body

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            struct.pack("<I", 0),
            struct.pack("<II", 1, 5),
            struct.pack("<I", 33) + bytes(8 * 34),
            struct.pack("<IIIII", 1, 0, 1, 1, 1),
            struct.pack("<IIIII", 1, 5, 77, 1, 1),
            struct.pack("<IIIIIII", 2, 5, 1, 5, 1, 1, 1),
        ],
    )
    def test_nonsense_ends_it(self, content: bytes) -> None:
        with pytest.raises(WireError):
            list(begun().feed(frame(FrameType.MESSAGE, 0, content)))

    def test_one_without_end_ends_it(self) -> None:
        mux = begun()
        part = frame(FrameType.MESSAGE, 0, bytes(FRAME_MAX), 1)
        with pytest.raises(WireError, match="longer"):
            feed_all(mux, [part] * (BODY_MAX // FRAME_MAX + 2))

    def test_more_channels_than_there_may_be_end_it(self) -> None:
        mux = begun()
        messages = [message(1, 1, b"", [(number, 2)]) for number in range(1, MAX_CHANNELS + 2)]
        with pytest.raises(WireError, match="channels"):
            feed_all(mux, messages)


class TestFromTheGuest:
    def test_data_and_the_end_come_in_order(self) -> None:
        mux = begun((1, ChannelType.SOURCE))
        stream = frame(FrameType.DATA, 1, b"ab") + frame(FrameType.DATA, 1, b"c") + frame(FrameType.END, 1)
        assert list(mux.feed(stream)) == [Data(1, b"ab"), Data(1, b"c"), Ended(1)]

    def test_no_more_than_a_window_without_confirmation(self) -> None:
        mux = begun((1, ChannelType.SOURCE))
        full = frame(FrameType.DATA, 1, bytes(FRAME_MAX))
        for _ in range(WINDOW // FRAME_MAX):
            list(mux.feed(full))
        mux.confirm(1, FRAME_MAX)
        assert frames(mux.take_output()) == [(FrameType.CREDIT, 1, OFFSETS.pack(FRAME_MAX, FRAME_MAX))]
        list(mux.feed(full))
        with pytest.raises(WireError, match="room"):
            list(mux.feed(frame(FrameType.DATA, 1, b"x")))

    @pytest.mark.parametrize("kind", [ChannelType.SINK, ChannelType.FILE])
    @pytest.mark.parametrize("what", [FrameType.DATA, FrameType.END])
    def test_not_from_a_channel_that_has_none(self, kind: ChannelType, what: FrameType) -> None:
        with pytest.raises(WireError):
            list(begun((1, kind)).feed(frame(what, 1, b"x" if what is FrameType.DATA else b"")))

    def test_nothing_after_the_end(self) -> None:
        mux = begun((1, ChannelType.SOURCE))
        list(mux.feed(frame(FrameType.END, 1)))
        for after in (frame(FrameType.DATA, 1, b"x"), frame(FrameType.END, 1)):
            with pytest.raises(WireError):
                list(mux.feed(after))

    def test_what_was_on_its_way_when_a_channel_was_closed_is_dropped(self) -> None:
        mux = begun((1, ChannelType.SOURCE))
        mux.close(1)
        assert frames(mux.take_output()) == [(FrameType.CLOSE, 1, b"")]
        assert list(mux.feed(frame(FrameType.DATA, 1, b"late") + frame(FrameType.END, 1))) == []

    @pytest.mark.parametrize(
        "data",
        [
            frame(99, 1),
            frame(FrameType.HELLO, 0, bytes(20)),
            frame(FrameType.ATTACH, 1, bytes(16)),
            HEADER.pack(FrameType.DATA, 0, 0, 1, FRAME_MAX + 1),
            HEADER.pack(FrameType.DATA, 0, 0, 1, 1) + b"xx",
        ],
    )
    def test_a_frame_that_is_none_ends_it(self, data: bytes) -> None:
        with pytest.raises(WireError):
            list(begun((1, ChannelType.SOURCE)).feed(data))


class TestToTheGuest:
    def test_no_more_than_a_window_until_it_was_written(self) -> None:
        mux = begun((1, ChannelType.SINK))
        mux.send_data(1, bytes(WINDOW))
        assert mux.room(1) == 0
        with pytest.raises(ValueError, match="room"):
            mux.send_data(1, b"x")
        assert list(mux.feed(frame(FrameType.CREDIT, 1, OFFSETS.pack(100, WINDOW)))) == [Room(1)]
        assert mux.room(1) == 100

    def test_a_mark_in_it_is_split(self) -> None:
        mux = begun((1, ChannelType.SINK))
        mux.send_data(1, b"x" + MARK * 3)
        output = mux.take_output()
        assert MARK not in output
        assert b"".join(payload for _, _, payload in frames(output)) == b"x" + MARK * 3

    @pytest.mark.parametrize("offsets", [(6, 6), (0, 6), (5, 4), (2**63, 2**63)])
    def test_a_confirmation_of_what_was_not_sent_ends_it(self, offsets: tuple[int, int]) -> None:
        mux = begun((1, ChannelType.SINK))
        mux.send_data(1, b"12345")
        with pytest.raises(WireError, match="confirmation"):
            list(mux.feed(frame(FrameType.CREDIT, 1, OFFSETS.pack(*offsets))))

    def test_confirmations_do_not_go_back(self) -> None:
        mux = begun((1, ChannelType.SINK))
        mux.send_data(1, b"12345")
        list(mux.feed(frame(FrameType.CREDIT, 1, OFFSETS.pack(3, 4))))
        for offsets in ((2, 4), (3, 3)):
            with pytest.raises(WireError, match="confirmation"):
                list(mux.feed(frame(FrameType.CREDIT, 1, OFFSETS.pack(*offsets))))

    def test_an_ended_channel_is_forgotten_when_all_was_written(self) -> None:
        mux = begun((1, ChannelType.SINK))
        mux.send_data(1, b"12345")
        mux.end(1)
        assert mux.channels() == [1]
        list(mux.feed(frame(FrameType.CREDIT, 1, OFFSETS.pack(5, 5))))
        assert mux.channels() == []

    def test_a_reader_that_has_gone(self) -> None:
        mux = begun((1, ChannelType.SINK))
        assert list(mux.feed(frame(FrameType.CLOSE, 1))) == [Closed(1)]
        assert mux.room(1) == 0


class TestNextSession:
    def again(self, mux: Mux) -> list[tuple[int, int, bytes]]:
        """Begin one more, and what is sent in it at first."""
        mux.begin()
        list(mux.feed(answer(mux)))
        for number in mux.channels():
            mux.attach(number)
        return frames(mux.take_output())

    def test_what_had_come_and_was_not_confirmed_comes_again(self) -> None:
        mux = begun((1, ChannelType.SOURCE))
        list(mux.feed(frame(FrameType.DATA, 1, b"123456") + frame(FrameType.END, 1)))
        mux.confirm(1, 4)
        assert self.again(mux) == [(FrameType.ATTACH, 1, OFFSETS.pack(4, 0))]
        stream = frame(FrameType.DATA, 1, b"56") + frame(FrameType.END, 1)
        assert list(mux.feed(stream)) == [Data(1, b"56"), Ended(1)]

    def test_what_the_guest_has_not_got_is_sent_again(self) -> None:
        mux = begun((1, ChannelType.SINK))
        mux.send_data(1, b"123456")
        mux.end(1)
        assert self.again(mux) == [(FrameType.ATTACH, 1, OFFSETS.pack(0, 0))]
        assert mux.room(1) == 0
        list(mux.feed(frame(FrameType.CREDIT, 1, OFFSETS.pack(1, 4))))
        assert frames(mux.take_output()) == [(FrameType.DATA, 1, b"56"), (FrameType.END, 1, b"")]

    def test_a_channel_of_another_host_is_followed_from_where_it_is(self) -> None:
        mux = begun()
        mux.open(7, ChannelType.TERMINAL, came=100, sent=30)
        mux.attach(7)
        assert frames(mux.take_output()) == [(FrameType.ATTACH, 7, OFFSETS.pack(100, 0))]
        assert mux.room(7) == 0
        list(mux.feed(frame(FrameType.CREDIT, 7, OFFSETS.pack(30, 30)) + frame(FrameType.DATA, 7, b"out")))
        assert mux.room(7) == WINDOW
        mux.confirm(7, 3)
        assert frames(mux.take_output()) == [(FrameType.CREDIT, 7, OFFSETS.pack(103, 103))]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_garbage_ends_it_and_does_nothing_else(blocks: list[bytes]) -> None:
    mux = begun((1, ChannelType.SOURCE), (2, ChannelType.SINK))
    feed_and_check(mux, blocks)


_FRAMES = st.builds(
    frame,
    st.sampled_from(list(FrameType)),
    st.integers(0, 4),
    st.one_of(st.binary(max_size=40), st.builds(OFFSETS.pack, st.integers(0, 20), st.integers(0, 20))),
    st.integers(0, 1),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(_FRAMES, max_size=30), st.integers(1, 50))
def test_any_frames_in_any_order(parts: list[bytes], size: int) -> None:
    mux = begun((1, ChannelType.SOURCE), (2, ChannelType.SINK), (3, ChannelType.TERMINAL))
    mux.send_data(2, b"0123456789")
    stream = b"".join(parts)
    feed_and_check(mux, [stream[at : at + size] for at in range(0, len(stream), size)])


def feed_and_check(mux: Mux, blocks: Sequence[bytes]) -> None:
    """What is held stays within its bounds, whatever comes."""
    came: Counter[int] = Counter()
    with suppress(WireError):
        for event in (event for block in blocks for event in mux.feed(block)):
            if isinstance(event, Data):
                came[event.channel] += len(event.data)
    assert all(count <= WINDOW for count in came.values())
    assert len(mux._message) <= BODY_MAX + module._ENVELOPE
    assert len(mux._in) <= sum(map(len, blocks))


@given(st.lists(st.sampled_from([MARK, MARK[:8], MARK[8:], b"x", b"\n", bytes(100)]), max_size=40))
def test_the_mark_never_occurs_in_what_is_sent(parts: list[bytes]) -> None:
    mux = begun((1, ChannelType.SINK))
    content = b"".join(parts)
    mux.send_data(1, content)
    mux.send_message(1, 1, content)
    output = mux.take_output()
    assert MARK not in output
    data = b"".join(payload for kind, _, payload in frames(output) if kind == FrameType.DATA)
    assert data == content
