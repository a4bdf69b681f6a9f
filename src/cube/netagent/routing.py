"""How the machine routes what comes from sandboxes: judged packets go on, diverted ones to the gateway, others nowhere.

Three rules and one table per instance, beside the machine's own. They close the way out by themselves: should the
nftables table go away (reloading a firewall often empties all tables), no packet has the mark of having been judged.
Constants: <linux/fib_rules.h>. Everything blocks for some tens of microseconds.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from cube.netagent.netlink import NLM_F_CREATE, NLM_F_EXCL, Message, attribute, number, parse_attributes, text
from cube.netagent.rtnetlink import RouteSocket, local_default_route, table_routes
from cube.netagent.words import DIVERTED, JUDGED, MARK_MASK
from cube.settings import Settings

_RTM_NEWRULE: Final = 32
_RTM_DELRULE: Final = 33
_RTM_GETRULE: Final = 34
_TO_TABLE: Final = 1
_UNREACHABLE: Final = 7
_SRC: Final = 2
_IIFNAME: Final = 3
_PRIORITY: Final = 6
_FWMARK: Final = 10
_TABLE: Final = 15
_FWMASK: Final = 16
_RULE: Final = struct.Struct("=BBBBBBBBI")
_RT_TABLE_MAIN: Final = 254
_RT_TABLE_UNSPEC: Final = 0
#: After the table of the machine's own addresses (0), before its main table (32766).
_FIRST_PRIORITY: Final = 5200


@dataclass(frozen=True, slots=True)
class Status:
    """What of the rules is there."""

    rules: int
    wanted: int
    #: Whether the table leads to this machine itself.
    table: bool

    @property
    def complete(self) -> bool:
        """Whether everything is there."""
        return self.rules == self.wanted and self.table


@dataclass(frozen=True, slots=True)
class _Rule:
    priority: int
    action: int
    table: int
    mark: int = 0
    mask: int = 0
    interface: str = ""

    def packed(self, network: IPv4Network) -> bytes:
        header = _RULE.pack(socket.AF_INET, 0, network.prefixlen, 0, self.table & 0xFF, 0, 0, self.action, 0)
        body = header + attribute(_SRC, network.network_address.packed) + number(_PRIORITY, self.priority)
        if self.mask:
            body += number(_FWMARK, self.mark) + number(_FWMASK, self.mask)
        if self.interface:
            body += text(_IIFNAME, self.interface)
        return body + (number(_TABLE, self.table) if self.table else b"")


class Routing:
    """The rules of one instance. Use in the namespace of the machine, from one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._network = IPv4Network(settings.network_cidr)
        # No two instances of a machine share a network, so none share a table.
        self._table = int(self._network.network_address)
        self._rules = (
            _Rule(_FIRST_PRIORITY, _TO_TABLE, self._table, DIVERTED, MARK_MASK),
            # What the machine itself sends from the gateways' addresses is not judged.
            _Rule(_FIRST_PRIORITY + 1, _TO_TABLE, _RT_TABLE_MAIN, interface="lo"),
            _Rule(_FIRST_PRIORITY + 2, _UNREACHABLE, _RT_TABLE_UNSPEC, 0, JUDGED),
        )

    def up(self) -> None:
        """Put the rules in force; those that are there stay, so doing it again changes nothing."""
        with RouteSocket() as netlink:
            # The one that closes comes first.
            for rule in reversed(self._rules):
                _ignoring(errno.EEXIST, netlink, Message(_RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, self._packed(rule)))
            _ignoring(errno.EEXIST, netlink, local_default_route(self._table))

    def down(self) -> None:
        """Take everything away; succeeds when nothing is there."""
        with RouteSocket() as netlink:
            for rule in self._rules:
                while _ignoring(errno.ENOENT, netlink, Message(_RTM_DELRULE, 0, self._packed(rule))):
                    pass
            _ignoring(errno.ESRCH, netlink, local_default_route(self._table, remove=True))

    def status(self) -> Status:
        """What is there now."""
        with RouteSocket() as netlink:
            wanted = {_fields(self._packed(rule)) for rule in self._rules}
            request = Message(_RTM_GETRULE, 0, _RULE.pack(socket.AF_INET, *(0,) * 8))
            there = [_fields(message.body) for message in netlink.dump(request)]
            found = sum(fields in wanted for fields in there)
            return Status(found, len(wanted), table_routes(netlink, self._table) > 0)

    def _packed(self, rule: _Rule) -> bytes:
        return rule.packed(self._network)


def _fields(body: bytes) -> tuple[object, ...]:
    """What tells a rule from others."""
    header = _RULE.unpack_from(body)
    found = parse_attributes(body[_RULE.size :])
    table = found.get(_TABLE, struct.pack("=I", header[4]))
    rest = (found.get(kind, b"").rstrip(b"\0") for kind in (_SRC, _IIFNAME, _PRIORITY, _FWMARK, _FWMASK))
    return header[2], header[7], table, *rest


def _ignoring(code: int, netlink: RouteSocket, message: Message) -> bool:
    """Send one request; ``False`` when it failed in the way that means there was nothing to do."""
    try:
        netlink.request([message])
    except OSError as error:
        if error.errno != code:
            raise
        return False
    return True
