"""Forget the tracked connections of addresses, so that they do not outlive the sandboxes that had them.

Constants: <linux/netfilter/nfnetlink_conntrack.h>. All entries are listed and the ones that match are deleted by name.
The kernel could filter, but before 5.8 it does not know how and would delete the connections of the whole machine; and
every listing walks its whole table (up to 30 ms for a quarter of a million buckets, however few entries there are), so
one listing for many addresses is what saves time. For a single source kernels since 5.8 leave the others out.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from cube.netagent.netlink import NETLINK_NETFILTER, Message, NetlinkSocket, attribute, nested, parse_attributes

_CT_GET: Final = (1 << 8) | 1
_CT_DELETE: Final = (1 << 8) | 2
_CTA_TUPLE_ORIG: Final = 1
_CTA_TUPLE_IP: Final = 1
_CTA_TUPLE_PROTO: Final = 2
_CTA_IP_V4_SRC: Final = 1
_CTA_IP_V4_DST: Final = 2
_CTA_PROTO_NUM: Final = 1
_CTA_PROTO_DST_PORT: Final = 3
_CTA_MARK: Final = 8
_CTA_ID: Final = 12
_CTA_ZONE: Final = 18
_CTA_FILTER: Final = 25
_CTA_FILTER_ORIG_FLAGS: Final = 1
#: Compare the source's address and nothing else.
_BY_SOURCE: Final = struct.pack("=I", 1)
#: nfgenmsg: family, version, resource id.
_GENERIC: Final = struct.pack("=BBH", socket.AF_INET, 0, 0)


@dataclass(frozen=True, slots=True)
class Flow:
    """A tracked connection as the one saw it who began it."""

    source: IPv4Address
    destination: IPv4Address
    #: Number of the protocol, and the destination's port; 0 where it has none.
    protocol: int
    port: int
    mark: int


#: Whether a connection is to be forgotten.
Unwanted = Callable[[Flow], bool]


def forget(addresses: Collection[IPv4Address]) -> int:
    """Delete every entry that one of these began or that was opened to one of them; returns how many there were.

    Acts on the namespace of the calling thread. ``OSError`` when the kernel has no conntrack over netlink.
    """
    packed = {address.packed for address in addresses}
    return _delete_where(packed, lambda entry: bool(packed & _ends(entry))) if packed else 0


def forget_flows(unwanted: Mapping[IPv4Address, Unwanted]) -> int:
    """Delete the entries that these addresses began and that are unwanted; else as :func:`forget`."""

    def judged(entry: dict[int, bytes]) -> bool:
        flow = _flow(entry)
        return flow is not None and flow.source in unwanted and unwanted[flow.source](flow)

    packed = {address.packed for address in unwanted}
    return _delete_where(packed, judged, _only_from(*packed) if len(packed) == 1 else b"") if packed else 0


def _only_from(source: bytes) -> bytes:
    """What has a listing leave out others; kernels that do not know it list everything."""
    wanted = nested(_CTA_TUPLE_ORIG, nested(_CTA_TUPLE_IP, attribute(_CTA_IP_V4_SRC, source)))
    return wanted + nested(_CTA_FILTER, attribute(_CTA_FILTER_ORIG_FLAGS, _BY_SOURCE))


def _delete_where(
    packed: Collection[bytes], unwanted: Callable[[dict[int, bytes]], bool], narrowed: bytes = b""
) -> int:
    perhaps = re.compile(b"|".join(map(re.escape, packed)))
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        entries = netlink.dump(Message(_CT_GET, 0, _GENERIC + narrowed))
        found = [parse_attributes(entry.body[len(_GENERIC) :]) for entry in entries if perhaps.search(entry.body)]
        return sum(_delete(netlink, entry) for entry in found if unwanted(entry))


def _flow(entry: dict[int, bytes]) -> Flow | None:
    tuple_ = parse_attributes(entry.get(_CTA_TUPLE_ORIG, b""))
    ends, protocol = (parse_attributes(tuple_.get(kind, b"")) for kind in (_CTA_TUPLE_IP, _CTA_TUPLE_PROTO))
    source, destination = ends.get(_CTA_IP_V4_SRC), ends.get(_CTA_IP_V4_DST)
    if source is None or destination is None:
        return None
    return Flow(
        source=IPv4Address(source),
        destination=IPv4Address(destination),
        protocol=int.from_bytes(protocol.get(_CTA_PROTO_NUM, b""), "big"),
        port=int.from_bytes(protocol.get(_CTA_PROTO_DST_PORT, b""), "big"),
        mark=int.from_bytes(entry.get(_CTA_MARK, b""), "big"),
    )


def _ends(entry: dict[int, bytes]) -> set[bytes]:
    addresses = parse_attributes(parse_attributes(entry.get(_CTA_TUPLE_ORIG, b"")).get(_CTA_TUPLE_IP, b""))
    return {addresses.get(_CTA_IP_V4_SRC, b""), addresses.get(_CTA_IP_V4_DST, b"")}


def _delete(netlink: NetlinkSocket, entry: dict[int, bytes]) -> bool:
    name = nested(_CTA_TUPLE_ORIG, entry[_CTA_TUPLE_ORIG])
    name += b"".join(attribute(kind, entry[kind]) for kind in (_CTA_ID, _CTA_ZONE) if kind in entry)
    try:
        netlink.request([Message(_CT_DELETE, 0, _GENERIC + name)])
    except OSError as error:
        if error.errno != errno.ENOENT:  # it ended by itself meanwhile
            raise
        return False
    return True
