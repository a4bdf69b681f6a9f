"""Forget the tracked connections of addresses, so that they do not outlive the sandboxes that had them.

Constants: <linux/netfilter/nfnetlink_conntrack.h>. All entries are listed and the ones that match are deleted by name.
The kernel could filter, but before 5.8 it does not know how and would delete the connections of the whole machine; and
every listing walks its whole table (some milliseconds), so one listing for many addresses is what saves time.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
from collections.abc import Collection
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
#: nfgenmsg: family, version, resource id.
_GENERIC: Final = struct.pack("=BBH", socket.AF_INET, 0, 0)


def forget(addresses: Collection[IPv4Address]) -> int:
    """Delete every entry that one of these began or that was opened to one of them; returns how many there were.

    Acts on the namespace of the calling thread. ``OSError`` when the kernel has no conntrack over netlink.
    """
    if not addresses:
        return 0
    packed = {address.packed for address in addresses}
    perhaps = re.compile(b"|".join(map(re.escape, packed)))
    with NetlinkSocket(_NETLINK_NETFILTER) as netlink:
        entries = netlink.dump(Message(_CT_GET, 0, _GENERIC))
        found = [parse_attributes(entry.body[len(_GENERIC) :]) for entry in entries if perhaps.search(entry.body)]
        return sum(_delete(netlink, entry) for entry in found if packed & _ends(entry))


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
