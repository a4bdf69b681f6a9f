"""Links, addresses, routes and neighbours over rtnetlink, without a program and without a library.

Functions make messages, :class:`RouteSocket` sends them. Constants: <linux/rtnetlink.h>, <linux/if_link.h>,
<linux/veth.h>, <linux/net_namespace.h>.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

from cube.netagent.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkSocket,
    attribute,
    nested,
    number,
    parse_attributes,
    text,
)

_NETLINK_ROUTE: Final = 0
#: Multicast group that tells of links that come and go.
RTMGRP_LINK: Final = 1

_RTM_NEWLINK: Final = 16
_RTM_DELLINK: Final = 17
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_RTM_GETROUTE: Final = 26
_RTM_NEWNEIGH: Final = 28
_RTM_NEWNSID: Final = 88
_RTM_GETNSID: Final = 90

_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_LINKINFO: Final = 18
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_VETH_INFO_PEER: Final = 1
_IFLA_STATS64: Final = 23
_IFLA_AF_SPEC: Final = 26
_IFLA_INET_CONF: Final = 1
_IFLA_NET_NS_FD: Final = 28
_IFLA_NUM_TX_QUEUES: Final = 31
_IFLA_NUM_RX_QUEUES: Final = 32
_IFLA_LINK_NETNSID: Final = 37
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_RTA_OIF: Final = 4
_RTA_TABLE: Final = 15
_RTA_GATEWAY: Final = 5
_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
_NETNSA_NSID: Final = 1
_NETNSA_FD: Final = 3

#: Settings of an interface that /proc/sys/net/ipv4/conf has as files (enum in <linux/ip.h>).
FORWARDING: Final = 1
RP_FILTER: Final = 8

_IFF_UP: Final = 0x1
_IFF_NOARP: Final = 0x80
_NUD_PERMANENT: Final = 0x80
_RT_TABLE_MAIN: Final = 254
_RTPROT_KERNEL: Final = 2
_RTPROT_STATIC: Final = 4
_RTN_UNICAST: Final = 1
_RTN_LOCAL: Final = 2
_RT_SCOPE_HOST: Final = 254
#: Number of the loopback interface in every namespace.
LOOPBACK: Final = 1

_IFINFO: Final = struct.Struct("=BxHiII")
_IFADDR: Final = struct.Struct("=BBBBI")
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_NDMSG: Final = struct.Struct("=BxxxiHBB")
_COUNTERS: Final = struct.Struct("=8Q")
#: <linux/sockios.h>, <linux/if.h>: a name, then the number or other things.
_SIOCGIFINDEX: Final = 0x8933
_IFREQ: Final = struct.Struct("@16si20x")


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel says of one interface."""

    index: int
    name: str
    #: ``veth``, ``tun`` and the like; empty for hardware.
    kind: str
    #: Id that the asking namespace has for the one of a veth pair's other end; ``None`` when it is the same one.
    peer_namespace: int | None
    #: Packets, bytes, errors and drops in either direction, added up: 0 means that nothing ever crossed it.
    traffic: int


@dataclass(frozen=True, slots=True)
class AddressInfo:
    """One IPv4 address of an interface."""

    link_index: int
    address: IPv4Interface


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(socket.AF_UNSPEC, 0, index, flags, change)


def veth(name: str, mac: bytes, peer_name: str, peer_mac: bytes, peer_namespace: int) -> Message:
    """Make a veth pair whose other end is born in the namespace of the descriptor ``peer_namespace``.

    One queue each: a queue per processor, the kernel's default, costs memory that thousands of links feel.
    """
    queues = number(_IFLA_NUM_TX_QUEUES, 1) + number(_IFLA_NUM_RX_QUEUES, 1)
    peer_name_and_place = text(_IFLA_IFNAME, peer_name) + number(_IFLA_NET_NS_FD, peer_namespace)
    peer = _link() + peer_name_and_place + attribute(_IFLA_ADDRESS, peer_mac) + queues
    data = nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, peer))
    kind = nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "veth"), data)
    body = _link() + text(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, mac) + queues + kind
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def set_mac(index: int, mac: bytes) -> Message:
    """Give an interface another hardware address."""
    return Message(_RTM_NEWLINK, 0, _link(index) + attribute(_IFLA_ADDRESS, mac))


def link_up(index: int, *, arp: bool = True) -> Message:
    """Bring an interface up; without ARP it neither asks nor answers who has an address."""
    flags = _IFF_UP if arp else _IFF_UP | _IFF_NOARP
    return Message(_RTM_NEWLINK, 0, _link(index, flags, _IFF_UP | _IFF_NOARP))


def configure(index: int, settings: Mapping[int, int]) -> Message:
    """Change IPv4 settings of an interface: a message among others, where each file below /proc/sys would have to be
    looked up among those of all namespaces."""
    values = b"".join(number(setting, value) for setting, value in settings.items())
    inet = nested(socket.AF_INET, nested(_IFLA_INET_CONF, values))
    return Message(_RTM_NEWLINK, 0, _link(index) + nested(_IFLA_AF_SPEC, inet))


def delete_link(index: int) -> Message:
    """Delete an interface, and the other end of a veth pair with it. Blocks for 20-30 ms (RCU)."""
    return Message(_RTM_DELLINK, 0, _link(index))


def add_address(index: int, address: IPv4Interface) -> Message:
    """Give an interface an address; the route to its network comes with it."""
    packed = address.ip.packed
    header = _IFADDR.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index)
    body = header + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    return Message(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def add_default_route(index: int, gateway: IPv4Address) -> Message:
    """Send what has no better route through ``gateway`` on this interface."""
    header = _RTMSG.pack(socket.AF_INET, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, 0, _RTN_UNICAST, 0)
    body = header + attribute(_RTA_GATEWAY, gateway.packed) + number(_RTA_OIF, index)
    return Message(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def local_default_route(table: int, *, remove: bool = False) -> Message:
    """Have everything that is looked up in a table delivered on this machine, whatever its address, or no longer."""
    header = _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL, 0)
    body = header + number(_RTA_TABLE, table) + number(_RTA_OIF, LOOPBACK)
    return Message(_RTM_DELROUTE, 0, body) if remove else Message(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def add_neighbour(index: int, address: IPv4Address, mac: bytes) -> Message:
    """Write down for good which MAC an address has on this interface."""
    header = _NDMSG.pack(socket.AF_INET, index, _NUD_PERMANENT, 0, 0)
    body = header + attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, mac)
    return Message(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL, body)


class RouteSocket(NetlinkSocket):
    """An rtnetlink socket of the namespace that the calling thread is in."""

    def __init__(self, *, groups: int = 0) -> None:
        super().__init__(_NETLINK_ROUTE, groups=groups)

    def link(self, name: str) -> LinkInfo:
        """The interface with this name; ``OSError`` ENODEV when there is none."""
        for message in self.request([Message(_RTM_GETLINK, 0, _link() + text(_IFLA_IFNAME, name))]):
            if message.kind == _RTM_NEWLINK:
                return _parse_link(message.body)
        raise OSError(errno.ENODEV, f"the kernel did not describe {name}")

    def index(self, name: str) -> int:
        """Number of the interface with this name, which costs a tenth of having it described; ``OSError`` ENODEV when
        there is none."""
        asked = _IFREQ.pack(name.encode(), 0)
        return int(_IFREQ.unpack(fcntl.ioctl(self.fileno(), _SIOCGIFINDEX, asked))[1])

    def links(self, prefix: str = "") -> list[LinkInfo]:
        """All interfaces whose name begins with ``prefix``."""
        found = [_parse_link(message.body) for message in self.dump(Message(_RTM_GETLINK, 0, _link()))]
        return [link for link in found if link.name.startswith(prefix)]

    def addresses(self) -> list[AddressInfo]:
        """All IPv4 addresses of all interfaces."""
        request = Message(_RTM_GETADDR, 0, _IFADDR.pack(socket.AF_INET, 0, 0, 0, 0))
        return [_parse_address(message.body) for message in self.dump(request)]

    def namespace_id(self, namespace: int) -> int | None:
        """Id that this socket's namespace has for another one, as in :attr:`LinkInfo.peer_namespace`."""
        request = Message(_RTM_GETNSID, 0, bytes(4) + number(_NETNSA_FD, namespace))
        for message in self.request([request]):
            if message.kind == _RTM_NEWNSID:
                return _signed(parse_attributes(message.body[4:]).get(_NETNSA_NSID))
        return None


def table_routes(netlink: RouteSocket, table: int) -> int:
    """How many IPv4 routes a table has."""
    return sum(found == table for found, _, _ in _routes(netlink))


def routed_interfaces(netlink: RouteSocket) -> set[int]:
    """Numbers of the interfaces that IPv4 routes of the main table lead over, without those that the kernel itself
    makes for the network of an address."""
    return {
        interface
        for table, protocol, interface in _routes(netlink)
        if table == _RT_TABLE_MAIN and protocol != _RTPROT_KERNEL and interface
    }


def _routes(netlink: RouteSocket) -> list[tuple[int, int, int]]:
    """Table, origin and interface of each IPv4 route."""
    found = netlink.dump(Message(_RTM_GETROUTE, 0, _RTMSG.pack(socket.AF_INET, *(0,) * 8)))
    return [_parse_route(message.body) for message in found if message.kind == _RTM_NEWROUTE]


def _parse_route(body: bytes) -> tuple[int, int, int]:
    header = _RTMSG.unpack_from(body)
    found = parse_attributes(body[_RTMSG.size :])
    table = found.get(_RTA_TABLE, struct.pack("=I", header[4]))
    interface = found.get(_RTA_OIF, bytes(4))
    return struct.unpack("=I", table)[0], header[5], struct.unpack("=I", interface)[0]


def _signed(value: bytes | None) -> int | None:
    if value is None or len(value) < 4:
        return None
    found = int(struct.unpack_from("=i", value)[0])
    return found if found >= 0 else None


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _parse_link(body: bytes) -> LinkInfo:
    _, _, index, _, _ = _IFINFO.unpack_from(body)
    found = parse_attributes(body[_IFINFO.size :])
    counters = found.get(_IFLA_STATS64, b"")
    return LinkInfo(
        index=index,
        name=_text(found.get(_IFLA_IFNAME, b"")),
        kind=_text(parse_attributes(found.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b"")),
        peer_namespace=_signed(found.get(_IFLA_LINK_NETNSID)),
        traffic=sum(_COUNTERS.unpack_from(counters)) if len(counters) >= _COUNTERS.size else 0,
    )


def _parse_address(body: bytes) -> AddressInfo:
    _, prefix, _, _, index = _IFADDR.unpack_from(body)
    found = parse_attributes(body[_IFADDR.size :])
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS) or bytes(4)
    return AddressInfo(index, IPv4Interface((packed, prefix)))
