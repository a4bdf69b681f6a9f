"""The output log, against a model: what readers get is what was written, once, in order, within bounds."""

from __future__ import annotations

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from cube.envd.process.output import EVENT_LIMIT, Channel, OutputLog, OutputReader


def drain(reader: OutputReader) -> list[tuple[Channel, bytes]]:
    got = []
    while (output := reader.peek()) is not None:
        got.append(output)
        reader.advance(len(output[1]))
    return got


def test_a_reader_gets_everything_in_order() -> None:
    log = OutputLog(1000)
    reader = log.attach()
    log.append(Channel.STDOUT, b"one ")
    log.append(Channel.STDERR, b"two ")
    log.append(Channel.STDOUT, b"three")
    assert drain(reader) == [(Channel.STDOUT, b"one "), (Channel.STDERR, b"two "), (Channel.STDOUT, b"three")]
    assert log.held == 0


def test_neighbours_of_one_channel_arrive_together() -> None:
    log = OutputLog(1000)
    log.append(Channel.STDOUT, b"a")
    log.append(Channel.STDOUT, b"b")
    assert drain(log.attach()) == [(Channel.STDOUT, b"ab")]


@pytest.mark.parametrize("channel", list(Channel))
def test_an_event_is_never_bigger_than_the_protocol_allows(channel: Channel) -> None:
    log = OutputLog(10**6)
    log.append(channel, bytes(100_000))
    sizes = [len(data) for _, data in drain(log.attach())]
    assert sum(sizes) == 100_000
    assert max(sizes) == EVENT_LIMIT[channel]


def test_what_was_peeked_but_not_delivered_is_for_the_next_reader() -> None:
    log = OutputLog(1000)
    first = log.attach()
    log.append(Channel.STDOUT, b"first")
    first.advance(len(b"first"))
    log.append(Channel.STDOUT, b"second")
    assert first.peek() == (Channel.STDOUT, b"second")
    first.close()
    assert drain(log.attach()) == [(Channel.STDOUT, b"second")]


def test_a_second_reader_does_not_get_again_what_the_first_has() -> None:
    log = OutputLog(1000)
    first = log.attach()
    log.append(Channel.STDOUT, b"old")
    drain(first)
    second = log.attach()
    log.append(Channel.STDOUT, b"new")
    assert drain(first) == drain(second) == [(Channel.STDOUT, b"new")]


def test_a_slow_reader_that_leaves_takes_with_it_what_the_others_have() -> None:
    log = OutputLog(1000)
    slow, fast = log.attach(), log.attach()
    log.append(Channel.STDOUT, b"seen by one")
    drain(fast)
    slow.close()
    fast.close()
    assert drain(log.attach()) == []


def test_with_a_reader_nothing_is_dropped_and_the_log_says_when_it_is_full() -> None:
    log = OutputLog(1000)
    reader = log.attach()
    log.append(Channel.STDOUT, bytes(2000))
    assert log.full
    assert log.dropped == 0
    reader.advance(2000)
    assert not log.full


def test_without_a_reader_the_oldest_goes_and_the_log_is_never_full() -> None:
    log = OutputLog(1000)
    log.append(Channel.STDOUT, b"a" * 900)
    log.append(Channel.STDERR, b"b" * 900)
    assert not log.full
    assert log.held <= 1000
    got = drain(log.attach())
    assert got[-1][1].endswith(b"b")
    assert sum(len(data) for _, data in got) + log.dropped == 1800


def test_many_tiny_chunks_are_bounded_too() -> None:
    log = OutputLog(64 * 1024)
    for _ in range(5000):
        log.append(Channel.STDOUT, b"o")
        log.append(Channel.STDERR, b"e")
    assert log.held <= 64 * 1024
    assert log.dropped > 8000


def test_when_the_last_reader_leaves_the_bound_holds_again() -> None:
    log = OutputLog(1000)
    reader = log.attach()
    log.append(Channel.STDOUT, bytes(5000))
    reader.close()
    assert log.held <= 1000


def test_closing_twice_is_closing_once() -> None:
    log = OutputLog(1000)
    reader = log.attach()
    reader.close()
    reader.close()
    assert not log.listened


class OutputMachine(RuleBasedStateMachine):
    """Random writers and readers; the model is the whole output as one string."""

    readers = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.log = OutputLog(2000)
        self.written: list[tuple[Channel, int]] = []
        self.delivered = 0
        self.attached = 0

    @rule(channel=strategies.sampled_from(Channel), data=strategies.binary(min_size=1, max_size=700))
    def write(self, channel: Channel, data: bytes) -> None:
        self.log.append(channel, data)
        self.written += [(channel, byte) for byte in data]

    @rule(target=readers)
    def attach(self) -> OutputReader:
        reader = self.log.attach()
        self.attached += 1
        assert reader.position >= self.delivered
        return reader

    @rule(reader=readers, fraction=strategies.floats(0.01, 1))
    def read(self, reader: OutputReader, fraction: float) -> None:
        output = reader.peek()
        assert (output is None) == (reader.position == len(self.written))
        if output is not None:
            channel, data = output
            expected = self.written[reader.position : reader.position + len(data)]
            assert [(channel, byte) for byte in data] == expected
            reader.advance(max(1, int(len(data) * fraction)))
            self.delivered = max(self.delivered, reader.position)

    @rule(reader=consumes(readers))
    def detach(self, reader: OutputReader) -> None:
        reader.close()
        self.attached -= 1

    @invariant()
    def bounded_when_nobody_listens(self) -> None:
        assert self.log.listened == (self.attached > 0)
        if not self.attached:
            assert self.log.held <= self.log.capacity


TestOutputMachine = OutputMachine.TestCase
TestOutputMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
