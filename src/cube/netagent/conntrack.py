"""Forget the tracked connections of an address, so that they do not outlive the sandbox that had it.

Constants: <linux/netfilter/nfnetlink_conntrack.h>. Entries are looked for and deleted one by one: a filter on the
delete request is unknown to kernels before 5.8, which would forget the connections of the whole machine instead.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Final

from cube.netagent.netlink import Message, NetlinkSocket, attribute, nested, parse_attributes

_NETLINK_NETFILTER: Final = 12
_CT_GET: Final = (1 << 8) | 1
_CT_DELETE: Final = (1 << 8) | 2
_CTA_TUPLE_ORIG: Final = 1
_CTA_TUPLE_IP: Final = 1
_CTA_IP_V4_SRC: Final = 1
_CTA_IP_V4_DST: Final = 2
_CTA_ID: Final = 12
_CTA_ZONE: Final = 18
_CTA_FILTER: Final = 25
_CTA_FILTER_ORIG_FLAGS: Final = 1
#: nfgenmsg: family, version, resource id.
_GENERIC: Final = struct.pack("=BBH", socket.AF_INET, 0, 0)
#: What names an entry in a delete request.
_NAMES: Final = (_CTA_TUPLE_ORIG, _CTA_ID, _CTA_ZONE)


def forget(address: IPv4Address) -> int:
    """Delete every entry that this address began or that was opened to it; returns how many there were.

    Acts on the namespace of the calling thread. ``OSError`` when the kernel has no conntrack over netlink.
    """
    with NetlinkSocket(_NETLINK_NETFILTER) as netlink:
        deleted = 0
        for entry in [*_entries(netlink, _CTA_IP_V4_SRC, address), *_entries(netlink, _CTA_IP_V4_DST, address)]:
            deleted += _delete(netlink, entry)
        return deleted


def _entries(netlink: NetlinkSocket, end: int, address: IPv4Address) -> Iterator[dict[int, bytes]]:
    # The flag of an end in the filter is the bit of its attribute number, counted from zero. Kernels that do not know
    # the filter answer with everything, so each entry is compared here as well.
    wanted = nested(_CTA_TUPLE_ORIG, nested(_CTA_TUPLE_IP, attribute(end, address.packed)))
    flags = nested(_CTA_FILTER, attribute(_CTA_FILTER_ORIG_FLAGS, struct.pack("=I", 1 << (end - 1))))
    for message in netlink.dump(Message(_CT_GET, 0, _GENERIC + wanted + flags)):
        entry = parse_attributes(message.body[len(_GENERIC) :])
        ends = parse_attributes(parse_attributes(entry.get(_CTA_TUPLE_ORIG, b"")).get(_CTA_TUPLE_IP, b""))
        if ends.get(end) == address.packed:
            yield entry


def _delete(netlink: NetlinkSocket, entry: dict[int, bytes]) -> bool:
    names = b"".join(_name(kind, entry[kind]) for kind in _NAMES if kind in entry)
    try:
        netlink.request([Message(_CT_DELETE, 0, _GENERIC + names)])
    except OSError as error:
        if error.errno != errno.ENOENT:  # it ended by itself meanwhile
            raise
        return False
    return True


def _name(kind: int, value: bytes) -> bytes:
    return nested(kind, value) if kind == _CTA_TUPLE_ORIG else attribute(kind, value)
