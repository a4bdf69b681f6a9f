"""Makes, judges and removes links. All of it blocks and belongs on a thread of ``namespaces.namespace_thread``."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from cube.model.errors import HostError
from cube.netagent import conntrack, namespaces, rtnetlink
from cube.netagent.addresses import AddressPlan
from cube.netagent.rtnetlink import RTMGRP_LINK, LinkInfo, RouteSocket

_log = logging.getLogger(__name__)

#: Name of the interface that a sandbox sees.
SANDBOX_INTERFACE: Final = "eth0"
# Locally administered. Every link is a wire of its own, so all can use the same two; being known beforehand they need
# no ARP, whose table is shared by all namespaces of the machine and holds 1,024 entries unless it was enlarged.
_GATEWAY_MAC: Final = bytes.fromhex("026375626501")
_SANDBOX_MAC: Final = bytes.fromhex("026375626502")
#: In the sandbox: any user may listen on any port and send ICMP echo requests, as on a desktop.
_SANDBOX_SYSCTLS: Final = (
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
)
#: On the host's end: take packets from the sandbox's own address alone, and never pass them on, whatever the host's
#: other rules and its global switch say.
_HOST_SYSCTLS: Final = (("rp_filter", "1"), ("forwarding", "0"))
#: Seconds that the kernel gets to take away the interfaces of namespaces that were let go.
_REMOVAL_TIME: Final = 3.0


@dataclass(frozen=True, slots=True)
class Link:
    """One wire between the host and a sandbox's network namespace."""

    index: int
    #: Name of the host's end.
    interface: str
    gateway: IPv4Address
    #: Address of the sandbox.
    address: IPv4Address
    #: Descriptor of the namespace; it belongs to the pool and is closed when the link is released.
    namespace: int


class LinkFactory:
    """Works on one instance's links. Not safe for several threads at a time."""

    def __init__(self, plan: AddressPlan) -> None:
        self._plan = plan
        self._home = namespaces.own_namespace()
        self._host = RouteSocket()

    def close(self) -> None:
        """Let go of the descriptors; links stay."""
        self._host.close()
        os.close(self._home)

    def check_network(self) -> None:
        """Raise ``HostError`` when somebody else's interface has an address in the range of the links."""
        ours = {link.index for link in self._host.links(self._plan.prefix)}
        for found in self._host.addresses():
            if found.link_index not in ours and found.address.network.overlaps(self._plan.network):
                raise HostError(
                    f"the network {self._plan.network} for sandboxes is in use on this machine ({found.address}); "
                    "choose a free one with CUBE_NETWORK_CIDR"
                )

    def make(self, index: int) -> Link:
        """Make the link of an index. ``FileExistsError`` when its interface is (still) there; nothing is left then."""
        with namespaces.new_namespace(self._home) as namespace:
            try:
                inner = self._prepare_namespace()
            except BaseException:
                os.close(namespace)
                raise
        try:
            with inner:
                self._connect(index, namespace, inner)
        except BaseException:
            os.close(namespace)  # takes the pair along, if it was made
            raise
        return self._describe(index, namespace)

    def adopt(self, index: int, pid: int) -> Link:
        """Take over a link that an earlier run of the service made, found through a process at its other end.

        ``HostError`` when the process or the interface is gone or the two do not belong together.
        """
        try:
            namespace = namespaces.process_namespace(pid)
        except OSError as error:
            raise HostError(f"the network namespace of process {pid} is gone: {error.strerror}") from error
        try:
            self._require_peer(self._plan.interface(index), namespace)
        except BaseException:
            os.close(namespace)
            raise
        return self._describe(index, namespace)

    def is_pristine(self, link: Link) -> bool:
        """Whether nobody can tell the link from a new one: no packet went through its namespace, loopback included.

        So there are no connections in TIME_WAIT that block a port, no tracked connections on the host, and no counters
        that tell the next sandbox about the last.
        """
        try:
            with namespaces.inside(link.namespace, self._home), RouteSocket() as inner:
                return not any(interface.traffic for interface in inner.links())
        except OSError as error:
            _log.warning("cannot look into the namespace of %s: %s", link.interface, error)
            return False

    def drop(self, links: Collection[Link]) -> None:
        """Let go of links without processes; the kernel takes their interfaces away a little later."""
        busy = {interface.name for interface in self._ours() if interface.traffic}
        for link in links:
            os.close(link.namespace)
        self._forget([link.address for link in links if link.interface in busy])

    def cut(self, index: int) -> None:
        """Delete the interface of an index now, whoever is at the other end; succeeds when there is none."""
        for link in self._host.links(self._plan.interface(index)):
            if link.name == self._plan.interface(index):
                self._delete(link)
                self._forget([self._plan.sandbox(index).ip])

    def existing(self) -> set[int]:
        """Indices whose interface is there."""
        found = (self._plan.index(link.name) for link in self._host.links(self._plan.prefix))
        return {index for index in found if index is not None}

    def remove_all(self, links: Collection[Link]) -> None:
        """Let go of links and wait until no interface of this instance is there; delete what others hold on to."""
        with RouteSocket(groups=RTMGRP_LINK) as events:
            self.drop(links)
            deadline = time.monotonic() + _REMOVAL_TIME
            while self._ours() and (left := deadline - time.monotonic()) > 0:
                events.wait(left)
        for interface in self._ours():
            self._delete(interface)

    def _require_peer(self, interface: str, namespace: int) -> None:
        try:
            peer = self._host.link(interface).peer_namespace
        except OSError as error:
            raise HostError(f"the link {interface} is gone: {error.strerror}") from error
        if peer is None or peer != self._host.namespace_id(namespace):
            raise HostError(f"the link {interface} leads to another network namespace")

    def _prepare_namespace(self) -> RouteSocket:
        for path, value in _SANDBOX_SYSCTLS:
            namespaces.write_sysctl(path, value)
        namespaces.close_ipv6("all")
        namespaces.close_ipv6("default")
        return RouteSocket()

    def _connect(self, index: int, namespace: int, inner: RouteSocket) -> None:
        name = self._plan.interface(index)
        gateway, sandbox = self._plan.gateway(index), self._plan.sandbox(index)
        self._host.request([rtnetlink.veth(name, _GATEWAY_MAC, SANDBOX_INTERFACE, _SANDBOX_MAC, namespace)])
        self._close_host_end(name)
        outer_index, inner_index = self._host.link(name).index, inner.link(SANDBOX_INTERFACE).index
        self._host.request(
            [
                rtnetlink.add_address(outer_index, gateway),
                rtnetlink.link_up(outer_index, arp=False),
                rtnetlink.add_neighbour(outer_index, sandbox.ip, _SANDBOX_MAC),
            ]
        )
        inner.request(
            [
                rtnetlink.link_up(inner.link("lo").index),
                rtnetlink.add_address(inner_index, sandbox),
                rtnetlink.link_up(inner_index, arp=False),
                rtnetlink.add_neighbour(inner_index, gateway.ip, _GATEWAY_MAC),
                rtnetlink.add_default_route(inner_index, gateway.ip),
            ]
        )

    def _close_host_end(self, name: str) -> None:
        namespaces.close_ipv6(name)
        for knob, value in _HOST_SYSCTLS:
            namespaces.write_sysctl(f"net/ipv4/conf/{name}/{knob}", value)

    def _describe(self, index: int, namespace: int) -> Link:
        gateway, sandbox = self._plan.gateway(index).ip, self._plan.sandbox(index).ip
        return Link(index, self._plan.interface(index), gateway, sandbox, namespace)

    def _ours(self) -> list[LinkInfo]:
        return [link for link in self._host.links(self._plan.prefix) if self._plan.index(link.name) is not None]

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
