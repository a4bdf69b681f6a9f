"""Elements of nftables sets and maps over netlink: added and removed in transactions, in constant time.

libnftables reads the whole table before it changes one element, so its price grows with the number of sandboxes. What
is here costs the same whether there are ten or thousands. Constants: <linux/netfilter/nf_tables.h>.
"""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cube.netagent.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkSocket,
    attribute,
    nested,
    parse_attributes,
    parse_list,
    text,
)

_SUBSYSTEM: Final = 10 << 8
_GET_SET: Final = _SUBSYSTEM | 10
_NEW_ELEMENTS: Final = _SUBSYSTEM | 12
_GET_ELEMENTS: Final = _SUBSYSTEM | 13
_DELETE_ELEMENTS: Final = _SUBSYSTEM | 14
_NEW_OBJECT: Final = _SUBSYSTEM | 18
_DELETE_OBJECT: Final = _SUBSYSTEM | 20
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_INET: Final = 1
#: nfgenmsg: family, version, resource id (of the subsystem, for a batch).
_GENERIC: Final = struct.pack("=BBH", _INET, 0, 0)
_BATCH: Final = struct.pack("=BB", 0, 0) + struct.pack("!H", 10)

_SET_TABLE: Final = 1
_SET_NAME: Final = 2
_LIST_TABLE: Final = 1
_LIST_SET: Final = 2
_LIST_ELEMENTS: Final = 3
_ONE_ELEMENT: Final = 1
_KEY: Final = 1
_DATA: Final = 2
_TIMEOUT: Final = 4
_EXPIRATION: Final = 5
_OBJECT: Final = 9
_VALUE: Final = 1
_OBJECT_TABLE: Final = 1
_OBJECT_NAME: Final = 2
_OBJECT_TYPE: Final = 3
_OBJECT_DATA: Final = 4
_TYPE_LIMIT: Final = 4
_LIMIT_RATE: Final = 1
_LIMIT_UNIT: Final = 2
_LIMIT_BURST: Final = 3
_LIMIT_TYPE: Final = 4
_LIMIT_FLAGS: Final = 5
_LIMIT_BYTES: Final = 1
_LIMIT_OVER: Final = 1
#: Elements in one message: each takes some 60 bytes, and an attribute holds 64 KiB at most.
_PORTION: Final = 512
#: Bytes of messages in one datagram; the kernel takes a transaction in one.
_SEND_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Element:
    """One element. Keys and values are as the kernel keeps them: see :func:`mark`."""

    set: str
    key: bytes
    value: bytes | None = None
    #: Seconds until it goes by itself; 0 means never.
    seconds: float = 0
    #: Name of the object that it refers to, in a map of objects.
    object: str | None = None


@dataclass(frozen=True, slots=True)
class ByteLimit:
    """An object that matches what exceeds a rate."""

    name: str
    bytes_per_second: int


def mark(value: int) -> bytes:
    """A mark as key or value: in the machine's byte order, unlike addresses."""
    return struct.pack("=I", value)


def mark_value(packed: bytes | None) -> int:
    """The number that :func:`mark` has packed; 0 for nothing."""
    return int.from_bytes(packed or b"", sys.byteorder)


class Transaction:
    """What is to change at once, in order."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._messages: list[Message] = []

    def __bool__(self) -> bool:
        return bool(self._messages)

    def add(self, elements: Iterable[Element]) -> None:
        """Add elements; one that is there already with another value makes the transaction fail."""
        self._elements(_NEW_ELEMENTS, NLM_F_CREATE, elements)

    def delete(self, elements: Iterable[Element]) -> None:
        """Delete elements, of which only the keys count; one that is not there makes the transaction fail."""
        self._elements(_DELETE_ELEMENTS, 0, elements)

    def add_limit(self, limit: ByteLimit) -> None:
        """Add an object."""
        numbers = (
            attribute(_LIMIT_RATE, struct.pack("!Q", limit.bytes_per_second))
            + attribute(_LIMIT_UNIT, struct.pack("!Q", 1))
            # Two seconds' worth, and the largest packet that a link carries in one piece.
            + attribute(_LIMIT_BURST, struct.pack("!I", min(max(2 * limit.bytes_per_second, 1 << 17), 0xFFFFFFFF)))
            + attribute(_LIMIT_TYPE, struct.pack("!I", _LIMIT_BYTES))
            + attribute(_LIMIT_FLAGS, struct.pack("!I", _LIMIT_OVER))
        )
        body = self._object(limit.name) + nested(_OBJECT_DATA, numbers)
        self._messages.append(Message(_NEW_OBJECT, NLM_F_CREATE | NLM_F_EXCL, body))

    def delete_limit(self, name: str) -> None:
        """Delete an object that no element refers to any more."""
        self._messages.append(Message(_DELETE_OBJECT, 0, self._object(name)))

    def messages(self) -> list[Message]:
        """As netlink messages; acknowledged is the last, and whatever fails."""
        *first, last = self._messages
        return [*first, Message(last.kind, last.flags | NLM_F_ACK, last.body)]

    def _object(self, name: str) -> bytes:
        kind = attribute(_OBJECT_TYPE, struct.pack("!I", _TYPE_LIMIT))
        return _GENERIC + text(_OBJECT_TABLE, self._table) + text(_OBJECT_NAME, name) + kind

    def _elements(self, kind: int, flags: int, elements: Iterable[Element]) -> None:
        for name, members in _by_set(elements):
            head = _GENERIC + text(_LIST_TABLE, self._table) + text(_LIST_SET, name)
            for begin in range(0, len(members), _PORTION):
                packed = [_packed(element, kind) for element in members[begin : begin + _PORTION]]
                self._messages.append(Message(kind, flags, head + nested(_LIST_ELEMENTS, *packed)))


class ElementSocket(NetlinkSocket):
    """Carries out transactions in the namespace of the calling thread. Blocks for as long as the kernel takes."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)
        self.set_send_buffer(_SEND_BYTES)

    def commit(self, transaction: Transaction) -> None:
        """All of it, or nothing: ``OSError`` of what failed first, e.g. ENOENT for an element that is not there."""
        if transaction:
            begin, end = Message(_BATCH_BEGIN, 0, _BATCH), Message(_BATCH_END, 0, _BATCH)
            self.batch([begin, *transaction.messages(), end])

    def elements(self, table: str, name: str) -> list[Element]:
        """Everything in a set or map; empty when there is no such table or set."""
        try:
            parts = self._dump_elements(table, name)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return []
        found = (parse_attributes(part.body[len(_GENERIC) :]).get(_LIST_ELEMENTS, b"") for part in parts)
        return [_unpacked(name, element) for elements in found for element in parse_list(elements)]

    def has_set(self, table: str, name: str) -> bool:
        """Whether there is such a set or map."""
        body = _GENERIC + text(_SET_TABLE, table) + text(_SET_NAME, name)
        try:
            return bool(self.request([Message(_GET_SET, 0, body)]))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False

    def _dump_elements(self, table: str, name: str) -> list[Message]:
        return self.dump(Message(_GET_ELEMENTS, 0, _GENERIC + text(_LIST_TABLE, table) + text(_LIST_SET, name)))


def _by_set(elements: Iterable[Element]) -> Iterator[tuple[str, Sequence[Element]]]:
    groups: dict[str, list[Element]] = {}
    for element in elements:
        groups.setdefault(element.set, []).append(element)
    yield from groups.items()


def _packed(element: Element, kind: int) -> bytes:
    parts = [nested(_KEY, attribute(_VALUE, element.key))]
    if kind == _NEW_ELEMENTS:
        if element.value is not None:
            parts.append(nested(_DATA, attribute(_VALUE, element.value)))
        if element.seconds:
            parts.append(attribute(_TIMEOUT, struct.pack("!Q", max(1, int(element.seconds * 1000)))))
        if element.object is not None:
            parts.append(text(_OBJECT, element.object))
    return nested(_ONE_ELEMENT, *parts)


def _unpacked(name: str, packed: bytes) -> Element:
    parts = parse_attributes(packed)
    key, data = (parse_attributes(parts.get(kind, b"")).get(_VALUE) for kind in (_KEY, _DATA))
    left = parts.get(_EXPIRATION)
    referred = parts.get(_OBJECT)
    return Element(
        set=name,
        key=key or b"",
        value=data,
        seconds=struct.unpack("!Q", left)[0] / 1000 if left else 0,
        object=None if referred is None else referred.rstrip(b"\0").decode(errors="replace"),
    )
