"""What the makers of links share, whatever is at the other end: which interfaces are ours, and how they go away.

All of it blocks and belongs on a thread of ``namespaces.namespace_thread``.
"""

from __future__ import annotations

import errno
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Interface
from typing import Final, Generic, Protocol, TypeVar

from cube.model.errors import HostError
from cube.netagent import conntrack, rtnetlink
from cube.netagent.addresses import AddressPlan
from cube.netagent.rtnetlink import RTMGRP_LINK, LinkInfo, RouteSocket
from cube.netagent.sysctls import Sysctls

_log = logging.getLogger(__name__)

# Locally administered. Every link is a wire of its own, so all can use the same two.
GATEWAY_MAC: Final = bytes.fromhex("026375626501")
SANDBOX_MAC: Final = bytes.fromhex("026375626502")
#: On the host's end: take packets from the sandbox's own address alone. They may be passed on, whatever the machine's
#: global switch says; which ones, cube.netagent.ruleset and cube.netagent.routing decide.
_HOST_SETTINGS: Final = {rtnetlink.RP_FILTER: 1, rtnetlink.FORWARDING: 1}
#: Seconds that the kernel gets to take away the interfaces of links that were let go.
_REMOVAL_TIME: Final = 3.0


class AnyLink(Protocol):
    """One wire between the host and a sandbox."""

    @property
    def index(self) -> int:
        """Number of the link; name and addresses follow from it."""
        ...

    @property
    def interface(self) -> str:
        """Name of the host's end."""
        ...

    @property
    def address(self) -> IPv4Address:
        """Address of the sandbox."""
        ...

    def close(self) -> None:
        """Let go of the descriptor that keeps the link alive."""
        ...


L = TypeVar("L", bound=AnyLink)


class Factory(ABC, Generic[L]):
    """Works on one instance's links of one kind. Not safe for several threads at a time."""

    #: How the kernel calls the kind of interface.
    kind: str

    def __init__(self, plan: AddressPlan) -> None:
        self.plan = plan
        self._host = RouteSocket()
        self._sysctls = Sysctls()

    def close(self) -> None:
        """Let go of the descriptors; links stay."""
        self._host.close()
        self._sysctls.close()

    @abstractmethod
    def make(self, index: int) -> L:
        """Make the link of an index. ``FileExistsError`` when its interface is (still) there; nothing is left then."""

    @abstractmethod
    def adopt(self, index: int, pid: int | None) -> L:
        """Take over a link that an earlier run of the service made, found through a process at its other end, or
        without one by what is there.

        ``HostError`` when the process or the interface is gone or the two do not belong together.
        """

    @abstractmethod
    def is_pristine(self, link: L) -> bool:
        """Whether nobody can tell the link from a new one."""

    def check_network(self) -> None:
        """Raise ``HostError`` when somebody else's interface has an address in the range of the links."""
        foreign = self._foreign_addresses()
        # What another pool removes between two questions looks like somebody else's for a moment.
        if foreign and (lasting := foreign & self._foreign_addresses()):
            raise HostError(
                f"the network {self.plan.network} for sandboxes is in use on this machine ({min(lasting)}); "
                "choose a free one with CUBE_NETWORK_CIDR"
            )

    def _foreign_addresses(self) -> set[IPv4Interface]:
        """Addresses in our range of interfaces that are not ours by their names."""
        # In this order: another pool may make an interface meanwhile.
        there = [found for found in self._host.addresses() if found.address.network.overlaps(self.plan.network)]
        ours = {link.index for link in self._host.links(self.plan.prefix)}
        return {found.address for found in there if found.link_index not in ours}

    def drop(self, links: Collection[L]) -> None:
        """Let go of links without processes; the kernel takes their interfaces away a little later."""
        busy = [link.address for link in links if (found := self._found(link.interface)) and found.traffic]
        for link in links:
            link.close()
        self._forget(busy)

    def cut(self, index: int) -> None:
        """Delete the interface of an index now, whoever is at the other end; succeeds when there is none."""
        if link := self._found(self.plan.interface(index)):
            self._delete(link)
            self._forget([self.plan.sandbox(index).ip])

    def existing(self) -> set[int]:
        """Indices whose interface is there."""
        found = (self.plan.index(link.name) for link in self._ours())
        return {index for index in found if index is not None}

    def remove_all(self, links: Collection[L]) -> None:
        """Let go of links and wait until no interface of this instance is there; delete what others hold on to."""
        with RouteSocket(groups=RTMGRP_LINK) as events:
            self.drop(links)
            deadline = time.monotonic() + _REMOVAL_TIME
            while self._ours() and (left := deadline - time.monotonic()) > 0:
                events.wait(left)
        for interface in self._ours():
            self._delete(interface)

    def _close_host_end(self, name: str) -> None:
        self._sysctls.close_ipv6(name)

    def _address_host_end(self, index: int, *, arp: bool) -> None:
        """Bring the host's end up, with its settings and address; where the sandbox's MAC is known it needs no
        ARP, whose table is shared by all namespaces of the machine and holds 1,024 entries unless it was enlarged."""
        outer = self._host.index(self.plan.interface(index))
        self._host.request(
            [
                rtnetlink.configure(outer, _HOST_SETTINGS),
                rtnetlink.add_address(outer, self.plan.gateway(index)),
                rtnetlink.link_up(outer, arp=arp),
                rtnetlink.add_neighbour(outer, self.plan.sandbox(index).ip, SANDBOX_MAC),
            ]
        )

    def _found(self, name: str) -> LinkInfo | None:
        """The interface of a link by its name, for which the kernel need not describe all others."""
        try:
            found = self._host.link(name)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None
        return found if found.kind == self.kind else None

    def _ours(self) -> list[LinkInfo]:
        found = self._host.links(self.plan.prefix)
        return [link for link in found if link.kind == self.kind and self.plan.index(link.name) is not None]

    def _delete(self, link: LinkInfo) -> None:
        try:
            self._host.request([rtnetlink.delete_link(link.index)])
        except OSError as error:
            _log.debug("%s went away before it was deleted: %s", link.name, error)

    def _forget(self, addresses: Collection[IPv4Address]) -> None:
        try:
            conntrack.forget(addresses)
        except OSError as error:
            _log.warning("cannot forget tracked connections: %s", error)
