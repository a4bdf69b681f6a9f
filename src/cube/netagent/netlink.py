"""The netlink wire: messages, attributes, acknowledged requests and dumps, for any netlink family.

Layout and constants: <linux/netlink.h>. Everything is in the machine's byte order unless a family says otherwise.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

#: Protocol of connection tracking and nftables.
NETLINK_NETFILTER: Final = 12

NLM_F_REQUEST: Final = 0x001
NLM_F_ACK: Final = 0x004
NLM_F_DUMP: Final = 0x300
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_DUMP_INTR: Final = 0x10
_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200
_NLMSGERR_ATTR_MSG: Final = 1
_NLA_F_NESTED: Final = 0x8000
_NLA_TYPE_MASK: Final = 0x3FFF

_SO_SNDBUFFORCE: Final = 32
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERRNO: Final = struct.Struct("=i")
_TIMEVAL: Final = struct.Struct("@ll")
#: Largest datagram that the kernel makes for a dump, twice over.
_RECEIVE_BYTES: Final = 65536
#: Seconds to wait for the kernel; it answers at once unless another request holds its lock for long.
_TIMEOUT: Final = 10
_DUMP_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Message:
    """One netlink message without its header's bookkeeping: type, flags, and the family's own body."""

    kind: int
    flags: int
    body: bytes


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """An attribute with a string, NUL at its end."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """An attribute with an unsigned 32-bit number."""
    return attribute(kind, struct.pack("=I", value))


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """Attribute type to value; of a repeated type the last one stays. Stops at what is malformed."""
    found: dict[int, bytes] = {}
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size or position + length > len(data):
            break
        found[kind & _NLA_TYPE_MASK] = data[position + _ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3
    return found


def parse_list(data: bytes) -> Iterator[bytes]:
    """The values of attributes that follow each other, whatever their types. Stops at what is malformed."""
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, _ = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size or position + length > len(data):
            break
        yield data[position + _ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3


def _parse_datagram(data: bytes) -> Iterator[tuple[int, Message]]:
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, position)
        if length < _HEADER.size:
            break
        yield sequence, Message(kind, flags, data[position + _HEADER.size : position + length])
        position += (length + 3) & ~3


def _failure(message: Message) -> OSError | None:
    """What an NLMSG_ERROR or NLMSG_DONE says; ``None`` when it is a plain acknowledgement."""
    if len(message.body) < _ERRNO.size:
        return None
    code = -_ERRNO.unpack_from(message.body)[0]
    return None if code <= 0 else OSError(code, _reason(code, message))


def _reason(code: int, message: Message) -> str:
    if not message.flags & _NLM_F_ACK_TLVS:
        return os.strerror(code)
    request_length = _HEADER.unpack_from(message.body, _ERRNO.size)[0]
    echoed = _HEADER.size if message.flags & _NLM_F_CAPPED else request_length
    said = parse_attributes(message.body[_ERRNO.size + ((echoed + 3) & ~3) :]).get(_NLMSGERR_ATTR_MSG, b"")
    words = said.rstrip(b"\0").decode(errors="replace")
    return f"{os.strerror(code)}: {words}" if words else os.strerror(code)


class NetlinkSocket:
    """A blocking netlink socket; it belongs for good to the network namespace of the thread that made it."""

    def __init__(self, protocol: int, *, groups: int = 0) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            # The kernel's own clock: with Python's every call would be two.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(_TIMEOUT, 0))
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._socket.bind((0, groups))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def request(self, messages: Sequence[Message]) -> list[Message]:
        """Send all messages in one datagram, wait until the last one is done, and return what came besides.

        The kernel carries them out in order and goes on after a failure, of which it always tells; the first one is
        raised as ``OSError`` with the kernel's own words. ``TimeoutError`` when the kernel does not answer.
        """
        *others, last = messages
        asking = Message(last.kind, last.flags | NLM_F_ACK, last.body)
        sequences = self._send([*others, asking])
        return self._outcome(sequences[-1:], sequences)

    def batch(self, messages: Sequence[Message]) -> None:
        """Send messages that the kernel takes as one, as nftables' transactions are; those with ``NLM_F_ACK`` are
        waited for. The first failure is raised as ``OSError``; nothing has been changed then.
        """
        sequences = self._send(messages)
        asked = [sequence for sequence, message in zip(sequences, messages, strict=True) if message.flags & NLM_F_ACK]
        self._outcome(asked, sequences, fatal=sequences[0])

    def set_send_buffer(self, size: int) -> None:
        """Allow datagrams of that size, also where the machine's limit is lower. Needs privileges."""
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)

    def _outcome(self, asked: Sequence[int], sequences: Collection[int], *, fatal: int | None = None) -> list[Message]:
        """What came besides, once all that are ``asked`` for are acknowledged; failures of the others count too, and
        after that of the ``fatal`` one nothing else comes."""
        waiting = set(asked)
        replies: list[Message] = []
        failure: OSError | None = None
        while waiting:
            for sequence, message in self._receive():
                if sequence not in sequences:
                    continue
                if message.kind != _NLMSG_ERROR:
                    replies.append(message)
                    continue
                failure = failure or _failure(message)
                waiting.discard(sequence)
                if sequence == fatal:
                    waiting.clear()
        if failure is not None:
            raise failure
        return replies

    def dump(self, message: Message) -> list[Message]:
        """Everything of one kind; asked again when the kernel says that it changed meanwhile."""
        for _ in range(_DUMP_ATTEMPTS):
            found, consistent = self._dump_once(message)
            if consistent:
                return found
        return found

    def wait(self, seconds: float) -> bool:
        """Wait for one notification of the groups that the socket has joined; ``False`` when none came in time."""
        self._socket.settimeout(max(seconds, 0.001))
        try:
            self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError:
            return False
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # more came than the buffer holds: that is news too
                raise
        finally:
            self._socket.settimeout(None)
        return True

    def _dump_once(self, message: Message) -> tuple[list[Message], bool]:
        asked = self._send([Message(message.kind, message.flags | NLM_F_DUMP, message.body)])
        found: list[Message] = []
        consistent = True
        while True:
            for sequence, part in self._receive():
                if sequence not in asked:
                    continue
                consistent = consistent and not part.flags & _NLM_F_DUMP_INTR
                if part.kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    failure = _failure(part)
                    if failure is not None:
                        raise failure
                    return found, consistent
                found.append(part)

    def _send(self, messages: Iterable[Message]) -> list[int]:
        packed, sequences = [], []
        for message in messages:
            self._sequence = (self._sequence + 1) & 0xFFFFFFFF
            sequences.append(self._sequence)
            length = _HEADER.size + len(message.body)
            header = _HEADER.pack(length, message.kind, message.flags | NLM_F_REQUEST, self._sequence, 0)
            packed.append(header + message.body + bytes(-len(message.body) % 4))
        self._socket.send(b"".join(packed))
        return sequences

    def _receive(self) -> Iterator[tuple[int, Message]]:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            raise TimeoutError("the kernel does not answer") from None
        return _parse_datagram(data)
