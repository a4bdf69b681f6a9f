"""Datagrams of cube-init: what is sent is what arrives, and what breaks the rules is refused and leaks nothing."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from cube.cubelet.runtime.container import datagrams
from cube.cubelet.runtime.guest.wire import BODY_MAX, Kind, WireError
from support.descriptors import open_fds

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def send_raw(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def fill(sock: socket.socket) -> int:
    """Send messages until the socket takes no more; returns how many."""
    for sent in range(1000):
        try:
            datagrams.send(sock, Kind.PING, sent, bytes(10_000))
        except BlockingIOError:
            return sent
    raise AssertionError("a socket that nobody reads took 10 MB")


def test_a_message_arrives_with_its_descriptors(pair: Pair) -> None:
    ours, theirs = pair
    read_end, write_end = os.pipe()
    datagrams.send(ours, Kind.LAUNCH, 7, b"body", [write_end])
    os.close(write_end)
    message = datagrams.receive(theirs)
    assert message is not None
    assert (message.kind, message.id, message.body) == (Kind.LAUNCH, 7, b"body")
    (received,) = message.take_fds(1)
    assert not os.get_inheritable(received)
    os.write(received, b"x")
    assert os.read(read_end, 1) == b"x"
    os.close(received)
    os.close(read_end)


@pytest.mark.parametrize("size", [datagrams.INLINE_MAX - 8, datagrams.INLINE_MAX - 7, BODY_MAX])
def test_bodies_up_to_the_limit_arrive_whole(pair: Pair, size: int) -> None:
    ours, theirs = pair
    body = os.urandom(1024) * (size // 1024) + bytes(size % 1024)
    before = open_fds()
    datagrams.send(ours, Kind.LIST, 1, body)
    message = datagrams.receive(theirs)
    assert message is not None
    assert message.kind == Kind.LIST
    assert message.body == body
    assert message.fds == []
    assert open_fds() == before


def test_a_long_message_keeps_its_other_descriptors(pair: Pair) -> None:
    ours, theirs = pair
    datagrams.send(ours, Kind.LAUNCH, 1, bytes(datagrams.INLINE_MAX), [ours.fileno()])
    message = datagrams.receive(theirs)
    assert message is not None
    (received,) = message.take_fds(1)
    assert os.path.sameopenfile(received, ours.fileno())
    os.close(received)


def test_a_body_over_the_limit_is_not_sent(pair: Pair) -> None:
    with pytest.raises(ValueError, match="limits"):
        datagrams.send(pair[0], Kind.LAUNCH, 1, bytes(BODY_MAX + 1))


def test_nothing_to_receive_is_told_apart_from_the_end(pair: Pair) -> None:
    ours, theirs = pair
    with pytest.raises(BlockingIOError):
        datagrams.receive(theirs)
    ours.close()
    assert datagrams.receive(theirs) is None


def test_a_full_socket_takes_nothing(pair: Pair) -> None:
    ours, theirs = pair
    sent = fill(ours)
    received = [datagrams.receive(theirs) for _ in range(sent)]
    assert [message.id for message in received if message is not None] == list(range(sent))
    with pytest.raises(BlockingIOError):
        datagrams.receive(theirs)


def test_the_wrong_number_of_descriptors_closes_them(pair: Pair) -> None:
    ours, theirs = pair
    before = open_fds()
    datagrams.send(ours, Kind.SPAWNED, 1, b"", [0, 1])
    message = datagrams.receive(theirs)
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
            datagrams.receive(theirs)
    assert open_fds() == before


@pytest.mark.parametrize("size", [0, 2, 4, BODY_MAX + 1, 2**64 - 1])
def test_a_long_body_must_have_the_announced_length(pair: Pair, size: int) -> None:
    ours, theirs = pair
    fd = datagrams.memory_file("test", b"abc")
    send_raw(ours, big(size), [fd])
    os.close(fd)
    before = open_fds()
    with pytest.raises(WireError):
        datagrams.receive(theirs)
    assert open_fds() == before


@pytest.mark.parametrize("data", [b"x", bytes(7), big(3), big(3)[:-1], big(3) + b"x", bytes(datagrams.INLINE_MAX + 1)])
def test_a_malformed_datagram_is_refused(pair: Pair, data: bytes) -> None:
    ours, theirs = pair
    ours.sendmsg([data])
    with pytest.raises(WireError):
        datagrams.receive(theirs)


def test_more_descriptors_than_allowed_are_refused(pair: Pair) -> None:
    ours, theirs = pair
    before = open_fds()
    send_raw(ours, struct.pack("<II", Kind.READY, 0), [0] * (datagrams.MAX_FDS + 2))
    with pytest.raises(WireError):
        datagrams.receive(theirs)
    assert open_fds() == before


def test_a_memory_file_cannot_be_changed() -> None:
    fd = datagrams.memory_file("test", b"abc")
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    assert os.pread(fd, 10, 0) == b"abc"
    os.close(fd)
