"""What a sandbox may reach: the policy as it was asked for, and what follows from it. IPv4; IPv6 is closed.

The order of judgement: what is allowed passes, then what is denied is refused, then everything else passes. Without a
word about it a sandbox reaches the whole internet, but no private address, no other sandbox and no service of the
host. What is here decides nothing about packets: ``cube.netagent.compiled`` makes kernel rules of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Network
from typing import Final

from cube.model.egress import EgressRule
from cube.model.egress_transforms import HostTransform, transform_rules
from cube.model.egress_wire import MOST_RULES
from cube.model.errors import InvalidInput

#: Entries of one list.
MOST_NETWORKS: Final = 8192
#: Names among the entries of ``allow_out``.
MOST_NAMES: Final = 1024

EVERYTHING: Final = IPv4Network("0.0.0.0/0")
#: Refused unless a policy allows an address or network that lies inside: private networks, the host's own link
#: (where clouds keep the credentials of the machine), shared address space, and what is no address of one machine.
PRIVATE: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "224.0.0.0/3",
        ),
    )
)


class DnsMode(StrEnum):
    """Which names the resolver of a sandbox answers."""

    #: All of them; connecting is another question.
    OPEN = "open"
    #: Those that the policy allows, so that questions cannot carry data out.
    STRICT = "strict"


#: Most connections at a time that a sandbox may be limited to: the kernel counts in these steps.
CONNECTION_STEPS: Final = (16, 64, 256, 1024, 4096, 16384)


@dataclass(frozen=True, slots=True)
class NetworkLimits:
    """How much a sandbox may send and receive; ``None`` means the node's own limit."""

    #: Connections at a time, one of :data:`CONNECTION_STEPS`.
    connections: int | None = None
    #: In each direction; what exceeds it is dropped.
    bytes_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The policy of one sandbox or template. ``cube.model.network_wire`` reads and writes it as JSON."""

    #: ``None`` means that nothing was said, which is yes.
    allow_internet_access: bool | None = None
    #: IPv4 addresses, networks, names, and ``*.name`` for all below a name.
    allow_out: tuple[str, ...] = ()
    #: IPv4 addresses and networks.
    deny_out: tuple[str, ...] = ()
    #: What may be said over HTTP and HTTPS; the first that fits decides.
    rules: tuple[EgressRule, ...] = ()
    #: E2B's form of credential injection, which allows nothing by itself.
    transforms: tuple[HostTransform, ...] = ()
    #: Servers that questions for names are sent on to; ``None`` means the node's.
    dns_servers: tuple[str, ...] | None = None
    #: ``None`` means the node's.
    dns: DnsMode | None = None
    limits: NetworkLimits = field(default_factory=NetworkLimits)

    @property
    def allowed_networks(self) -> tuple[IPv4Network, ...]:
        """The addresses and networks of ``allow_out``."""
        return tuple(IPv4Network(entry) for entry in self.allow_out if is_network(entry))

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """The names of ``allow_out``."""
        return tuple(entry for entry in self.allow_out if not is_network(entry))

    @property
    def denied_networks(self) -> tuple[IPv4Network, ...]:
        """The addresses and networks of ``deny_out``; all of them where there is no internet access."""
        listed = tuple(map(IPv4Network, self.deny_out))
        return listed if self.allow_internet_access is not False else (EVERYTHING, *listed)

    @property
    def denies_everything(self) -> bool:
        """Whether only what is allowed passes."""
        return EVERYTHING in self.denied_networks

    @property
    def restrictive(self) -> bool:
        """Whether anything was said about what may be reached."""
        return bool(self.allow_out or self.deny_out or self.rules or self.transforms)

    @property
    def gateway_rules(self) -> tuple[EgressRule, ...]:
        """The rules that the gateway for HTTP and HTTPS is told, transforms included; none where it has no part."""
        if not self.transforms:
            return self.rules
        hosts = [transform.host for transform in self.transforms]
        # Where networks are allowed too, a host may lie in them without its name being among the allowed.
        allowed = [*self.allowed_names, *(hosts if self.allowed_networks else [])] if self.denies_everything else None
        return (*self.rules, *transform_rules(self.transforms, allowed))

    def checked(self) -> NetworkConfig:
        """The same; raises ``InvalidInput`` when its parts do not fit together."""
        if self.allowed_names and not self.denies_everything:
            raise InvalidInput(
                "allowed domains require disabling public outbound traffic (allow_internet_access: false) or adding "
                "'0.0.0.0/0' to deny_out: without it everything may be reached, and naming some of it means nothing",
                field="network.allowOut",
            )
        for name, entries, most in (
            ("allowOut", self.allow_out, MOST_NETWORKS),
            ("denyOut", self.deny_out, MOST_NETWORKS),
            ("rules", (*self.rules, *self.transforms), MOST_RULES),
            ("allowOut domains", self.allowed_names, MOST_NAMES),
        ):
            require_at_most(entries, most, f"network.{name}")
        return self

    def effective_allow_out(self, resolvers: Sequence[str]) -> tuple[str, ...]:
        """``allow_out`` with the servers that a sandbox asks for names, once each, where a policy would cut them off.

        Not where there is no internet access: that closes names too, unless they are allowed by name.
        """
        if not self.restrictive or self.allow_internet_access is False:
            return self.allow_out
        return tuple(dict.fromkeys((*self.allow_out, *resolvers)))


def merged(template: NetworkConfig | None, request: NetworkConfig | None) -> NetworkConfig:
    """The policy of a sandbox: what its template says, then what was asked for with it.

    Raises ``InvalidInput`` when the two do not fit together.
    """
    if template is None or request is None:
        return (request or template or NetworkConfig()).checked()
    said = request.allow_internet_access
    return replace(
        request,
        allow_internet_access=template.allow_internet_access if said is None else said,
        allow_out=tuple(dict.fromkeys((*template.allow_out, *request.allow_out))),
        deny_out=tuple(dict.fromkeys((*template.deny_out, *request.deny_out))),
        rules=(*request.rules, *template.rules),
        transforms=_transforms(template.transforms, request.transforms),
        dns_servers=template.dns_servers if request.dns_servers is None else request.dns_servers,
        dns=request.dns or template.dns,
        limits=_limits(template.limits, request.limits),
    ).checked()


def is_network(entry: str) -> bool:
    """Whether an entry of ``allow_out`` is an address or network, and not a name."""
    return entry[-1:].isdigit() and not any(character.isalpha() for character in entry)


def is_private(network: IPv4Network) -> bool:
    """Whether all of a network is refused unless it is allowed by itself."""
    return any(network.subnet_of(private) for private in PRIVATE)


def require_at_most(entries: Sequence[object], most: int, name: str) -> None:
    """Raise ``InvalidInput`` when a list is too long."""
    if len(entries) > most:
        raise InvalidInput(f"{name} exceeds maximum entries: got {len(entries)}, max {most}", field=name.split(" ")[0])


def _transforms(template: tuple[HostTransform, ...], request: tuple[HostTransform, ...]) -> tuple[HostTransform, ...]:
    """For one host the request's counts."""
    return tuple({transform.host: transform for transform in (*template, *request)}.values())


def _limits(template: NetworkLimits, request: NetworkLimits) -> NetworkLimits:
    return NetworkLimits(
        connections=template.connections if request.connections is None else request.connections,
        bytes_per_second=template.bytes_per_second if request.bytes_per_second is None else request.bytes_per_second,
    )
