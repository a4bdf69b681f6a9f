"""Links of containers: a pair of interfaces, one end on the host, the other born in a network namespace of its own.

All of it blocks and belongs on a thread of ``namespaces.namespace_thread``.
"""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Final

from cube.helper.process import Caller
from cube.model.errors import HostError
from cube.netagent import namespaces, rtnetlink
from cube.netagent.addresses import AddressPlan
from cube.netagent.factory import GATEWAY_MAC, SANDBOX_MAC, Factory
from cube.netagent.rtnetlink import RouteSocket

_log = logging.getLogger(__name__)

#: Name of the interface that a sandbox sees.
SANDBOX_INTERFACE: Final = "eth0"
#: In the sandbox: any user may listen on any port and send ICMP echo requests, as on a desktop.
_SANDBOX_SYSCTLS: Final = (
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
)


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

    def close(self) -> None:
        """Let go of the namespace, which takes the pair along unless a process is in it."""
        os.close(self.namespace)


class LinkFactory(Factory[Link]):
    """Makes, judges and removes the links of containers."""

    kind = "veth"

    def __init__(self, plan: AddressPlan, helper: Caller | None = None) -> None:
        """``helper`` makes the links, if there is one; all else is done here."""
        super().__init__(plan)
        self._home = namespaces.own_namespace()
        self._helper = helper

    def close(self) -> None:
        """Let go of the descriptors; links stay."""
        super().close()
        os.close(self._home)

    def make(self, index: int) -> Link:
        """Make the link of an index. ``FileExistsError`` when its interface is (still) there; nothing is left then."""
        if self._helper is None:
            return self._make(index)
        link, (namespace,) = self._helper.call(_made, self.plan, index)
        return replace(link, namespace=namespace)

    def _make(self, index: int) -> Link:
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

    def adopt(self, index: int, pid: int | None) -> Link:
        """Take over a link that an earlier run of the service made, found through a process at its other end: a given
        one, or any that is there.

        ``HostError`` when the process or the interface is gone or the two do not belong together.
        """
        if pid is None:
            return self._describe(index, self._inhabited_namespace(index))
        try:
            namespace = namespaces.process_namespace(pid)
        except OSError as error:
            raise HostError(f"the network namespace of process {pid} is gone: {error.strerror}") from error
        try:
            self._require_peer(self.plan.interface(index), namespace)
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

    def _inhabited_namespace(self, index: int) -> int:
        """The namespace at the other end, by whichever process is in it."""
        name = self.plan.interface(index)
        if index not in self.existing():
            raise HostError(f"the link {name} is gone")
        for namespace in namespaces.inhabited():
            try:
                self._require_peer(name, namespace)
            except HostError:
                os.close(namespace)
            else:
                return namespace
        raise HostError(f"no process is at the other end of the link {name}")

    def _require_peer(self, interface: str, namespace: int) -> None:
        try:
            peer = self._host.link(interface).peer_namespace
        except OSError as error:
            raise HostError(f"the link {interface} is gone: {error.strerror}") from error
        if peer is None or peer != self._host.namespace_id(namespace):
            raise HostError(f"the link {interface} leads to another network namespace")

    def _prepare_namespace(self) -> RouteSocket:
        self._sysctls.prepare()
        for path, value in _SANDBOX_SYSCTLS:
            self._sysctls.write(path, value)
        self._sysctls.close_ipv6("all")
        return RouteSocket()

    def _connect(self, index: int, namespace: int, inner: RouteSocket) -> None:
        name, gateway = self.plan.interface(index), self.plan.gateway(index).ip
        self._host.request([rtnetlink.veth(name, GATEWAY_MAC, SANDBOX_INTERFACE, SANDBOX_MAC, namespace)])
        self._close_host_end(name)
        self._address_host_end(index, arp=False)
        inner_index = inner.index(SANDBOX_INTERFACE)
        inner.request(
            [
                rtnetlink.link_up(rtnetlink.LOOPBACK),
                rtnetlink.add_address(inner_index, self.plan.sandbox(index)),
                rtnetlink.link_up(inner_index, arp=False),
                rtnetlink.add_neighbour(inner_index, gateway, GATEWAY_MAC),
                rtnetlink.add_default_route(inner_index, gateway),
            ]
        )

    def _describe(self, index: int, namespace: int) -> Link:
        gateway, sandbox = self.plan.gateway(index).ip, self.plan.sandbox(index).ip
        return Link(index, self.plan.interface(index), gateway, sandbox, namespace)


@functools.cache
def _factory(plan: AddressPlan) -> LinkFactory:
    return LinkFactory(plan)


def _made(plan: AddressPlan, index: int) -> tuple[Link, list[int]]:
    """Work for a helper: a link, and its namespace beside it."""
    link = _factory(plan).make(index)
    return link, [link.namespace]
