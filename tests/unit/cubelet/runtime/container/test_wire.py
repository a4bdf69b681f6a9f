"""Messages of cube-init: what is sent is what arrives, and what breaks the rules is refused and leaks nothing."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.cubelet.runtime.container import wire
from cube.cubelet.runtime.container.wire import Failure, Kind, Reader, WireError, Writer

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def send_raw(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def fill(sock: socket.socket) -> int:
    """Send messages until the socket takes no more; returns how many."""
    for sent in range(1000):
        try:
            wire.send(sock, Kind.PING, sent, bytes(10_000))
        except BlockingIOError:
            return sent
    raise AssertionError("a socket that nobody reads took 10 MB")


def test_fields_are_laid_out_as_documented() -> None:
    body = Writer().u16(0x0102).u32(3).i32(-1).u64(1 << 40).i64(-2).data(b"ab").finish()
    assert body == bytes.fromhex("0201 03000000 ffffffff 0000000000010000 feffffffffffffff 02000000 6162")


@given(st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**64 - 1), st.binary())
def test_what_is_written_is_read_back(a: int, b: int, c: int, d: bytes) -> None:
    reader = Reader(Writer().u32(a).i32(b).u64(c).i64(-5).data(d).finish())
    assert (reader.u32(), reader.i32(), reader.u64(), reader.i64(), reader.data()) == (a, b, c, -5, d)
    reader.end()


@given(st.lists(st.text().filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))))
def test_lists_of_text_are_read_back(values: list[str]) -> None:
    reader = Reader(Writer().texts(values).finish())
    assert reader.items(reader.text) == values


def test_text_keeps_bytes_that_are_not_utf8() -> None:
    name = os.fsdecode(b"caf\xe9")
    assert Reader(Writer().text(name).finish()).text() == name


@given(st.binary(max_size=64))
def test_no_body_makes_the_reader_do_anything_but_refuse(body: bytes) -> None:
    reader = Reader(body)
    try:
        reader.items(reader.text)
        reader.u64()
        reader.end()
    except WireError:
        pass


@pytest.mark.parametrize("body", [b"\x05\0\0\0abcd", b"\xff\xff\xff\xff", b"\x01\0"])
def test_a_field_beyond_the_end_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        Reader(body).data()


def test_a_list_that_cannot_fit_is_refused_before_it_is_read() -> None:
    reader = Reader(struct.pack("<I", 2**32 - 1) + bytes(64))
    with pytest.raises(WireError, match="cannot fit"):
        reader.items(reader.u32)


def test_bytes_that_are_left_over_are_refused() -> None:
    with pytest.raises(WireError, match="1 bytes too many"):
        Reader(b"x").end()


def test_a_message_arrives_with_its_descriptors(pair: Pair) -> None:
    ours, theirs = pair
    read_end, write_end = os.pipe()
    wire.send(ours, Kind.LAUNCH, 7, b"body", [write_end])
    os.close(write_end)
    message = wire.receive(theirs)
    assert message is not None
    assert (message.kind, message.id, message.body) == (Kind.LAUNCH, 7, b"body")
    (received,) = message.take_fds(1)
    assert not os.get_inheritable(received)
    os.write(received, b"x")
    assert os.read(read_end, 1) == b"x"
    os.close(received)
    os.close(read_end)


@pytest.mark.parametrize("size", [wire.INLINE_MAX - 8, wire.INLINE_MAX - 7, wire.BODY_MAX])
def test_bodies_up_to_the_limit_arrive_whole(pair: Pair, size: int) -> None:
    ours, theirs = pair
    body = os.urandom(1024) * (size // 1024) + bytes(size % 1024)
    before = open_fds()
    wire.send(ours, Kind.LIST, 1, body)
    message = wire.receive(theirs)
    assert message is not None
    assert message.kind == Kind.LIST
    assert message.body == body
    assert message.fds == []
    assert open_fds() == before


def test_a_long_message_keeps_its_other_descriptors(pair: Pair) -> None:
    ours, theirs = pair
    wire.send(ours, Kind.LAUNCH, 1, bytes(wire.INLINE_MAX), [ours.fileno()])
    message = wire.receive(theirs)
    assert message is not None
    (received,) = message.take_fds(1)
    assert os.path.sameopenfile(received, ours.fileno())
    os.close(received)


def test_a_body_over_the_limit_is_not_sent(pair: Pair) -> None:
    with pytest.raises(ValueError, match="limits"):
        wire.send(pair[0], Kind.LAUNCH, 1, bytes(wire.BODY_MAX + 1))


def test_nothing_to_receive_is_told_apart_from_the_end(pair: Pair) -> None:
    ours, theirs = pair
    with pytest.raises(BlockingIOError):
        wire.receive(theirs)
    ours.close()
    assert wire.receive(theirs) is None


def test_a_full_socket_takes_nothing(pair: Pair) -> None:
    ours, theirs = pair
    sent = fill(ours)
    received = [wire.receive(theirs) for _ in range(sent)]
    assert [message.id for message in received if message is not None] == list(range(sent))
    with pytest.raises(BlockingIOError):
        wire.receive(theirs)


def test_the_wrong_number_of_descriptors_closes_them(pair: Pair) -> None:
    ours, theirs = pair
    before = open_fds()
    wire.send(ours, Kind.SPAWNED, 1, b"", [0, 1])
    message = wire.receive(theirs)
    assert message is not None
    with pytest.raises(WireError, match="2 descriptors instead of 1"):
        message.take_fds(1)
    assert open_fds() == before


def big(size: int) -> bytes:
    return struct.pack("<IIQ", Kind.ENTRIES | 0x8000_0000, 1, size)


def unsealed() -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(fd, b"abc")
    return fd


def growable() -> int:
    fd = unsealed()
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)
    return fd


def pipe() -> int:
    read_end, write_end = os.pipe()
    os.close(write_end)
    return read_end


@pytest.mark.parametrize("make", [unsealed, growable, pipe, lambda: os.open("/dev/zero", os.O_RDONLY)])
def test_a_long_body_must_be_a_sealed_memory_file(pair: Pair, make: Callable[[], int]) -> None:
    ours, theirs = pair
    before = open_fds()
    fd = make()
    send_raw(ours, big(3), [fd, 0])
    send_raw(ours, big(3), [0, fd])
    os.close(fd)
    for _ in range(2):
        with pytest.raises(WireError):
            wire.receive(theirs)
    assert open_fds() == before


@pytest.mark.parametrize("size", [0, 2, 4, wire.BODY_MAX + 1, 2**64 - 1])
def test_a_long_body_must_have_the_announced_length(pair: Pair, size: int) -> None:
    ours, theirs = pair
    fd = wire.memory_file("test", b"abc")
    send_raw(ours, big(size), [fd])
    os.close(fd)
    before = open_fds()
    with pytest.raises(WireError):
        wire.receive(theirs)
    assert open_fds() == before


@pytest.mark.parametrize("data", [b"x", bytes(7), big(3), big(3)[:-1], big(3) + b"x", bytes(wire.INLINE_MAX + 1)])
def test_a_malformed_datagram_is_refused(pair: Pair, data: bytes) -> None:
    ours, theirs = pair
    ours.sendmsg([data])
    with pytest.raises(WireError):
        wire.receive(theirs)


def test_more_descriptors_than_allowed_are_refused(pair: Pair) -> None:
    ours, theirs = pair
    before = open_fds()
    send_raw(ours, struct.pack("<II", Kind.READY, 0), [0] * (wire.MAX_FDS + 2))
    with pytest.raises(WireError):
        wire.receive(theirs)
    assert open_fds() == before


def test_a_memory_file_cannot_be_changed() -> None:
    fd = wire.memory_file("test", b"abc")
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    assert os.pread(fd, 10, 0) == b"abc"
    os.close(fd)


def test_a_failure_is_decoded() -> None:
    body = Writer().i32(2).u32(9).text("/etc").finish()
    assert Failure.decode(body) == Failure(2, 9, "/etc")
