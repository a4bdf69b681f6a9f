"""Network policies as JSON speaks them: upstream's form, E2B's form, and what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from typing import Any, Final

from cube.model.egress import REDACTED, EgressRule
from cube.model.egress_transforms import HostTransform, parse_transforms
from cube.model.egress_wire import parse_domain, parse_rules, to_wire
from cube.model.errors import InvalidInput
from cube.model.network import (
    CONNECTION_STEPS,
    MOST_NETWORKS,
    DnsMode,
    NetworkConfig,
    NetworkLimits,
    is_network,
    require_at_most,
)

#: Servers for names of one sandbox.
MOST_SERVERS: Final = 10
_LONGEST_ENTRY: Final = 256
_LEAST_BYTES: Final = 1024
_MOST_BYTES: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class WireNetwork:
    """The parts of a policy as they come, each of the right JSON type already or ``None`` where it was left out."""

    allow_internet_access: bool | None = None
    allow_out: list[str] | None = None
    deny_out: list[str] | None = None
    rules: object = None
    dns_servers: list[str] | None = None
    dns: str | None = None
    limits: Mapping[str, int | None] = field(default_factory=dict)


def parse_network(wire: WireNetwork) -> NetworkConfig:
    """The policy; whether its parts fit together is not asked yet. Raises ``InvalidInput`` that names the field."""
    rules, transforms = _rules(wire.rules)
    return NetworkConfig(
        allow_internet_access=wire.allow_internet_access,
        allow_out=_entries(wire.allow_out, "network.allowOut", names=True),
        deny_out=_entries(wire.deny_out, "network.denyOut", names=False),
        rules=rules,
        transforms=transforms,
        dns_servers=_servers(wire.dns_servers),
        dns=_mode(wire.dns),
        limits=_limits(wire.limits),
    )


def stored(network: NetworkConfig) -> dict[str, Any]:
    """Everything, secrets included, for a store that encrypts; see :func:`restored`."""
    return {
        "allow_internet_access": network.allow_internet_access,
        "allow_out": network.allow_out,
        "deny_out": network.deny_out,
        "rules": [to_wire(rule, secrets=True) for rule in network.rules],
        "transforms": _transforms_to_wire(network, secrets=True),
        "dns_servers": network.dns_servers,
        "dns": network.dns,
        "limits": {
            "connections": network.limits.connections,
            "bytes_per_second": network.limits.bytes_per_second,
        },
    }


def restored(document: Mapping[str, Any]) -> NetworkConfig:
    """What :func:`stored` wrote."""
    servers = document["dns_servers"]
    return NetworkConfig(
        allow_internet_access=document["allow_internet_access"],
        allow_out=tuple(document["allow_out"]),
        deny_out=tuple(document["deny_out"]),
        rules=parse_rules(document["rules"]),
        transforms=parse_transforms(document["transforms"]),
        dns_servers=None if servers is None else tuple(servers),
        dns=_mode(document["dns"]),
        limits=NetworkLimits(**document["limits"]),
    )


def shown(network: NetworkConfig) -> dict[str, Any]:
    """What a client may see, in the form that it would send: secrets are masked, what was left out stays out."""
    parts: dict[str, Any] = {
        "allowOut": list(network.allow_out),
        "denyOut": list(network.deny_out),
        "rules": [to_wire(rule) for rule in network.rules] or _transforms_to_wire(network),
        "dns": network.dns.value if network.dns else None,
        "limits": {
            name: value
            for name, value in (
                ("connections", network.limits.connections),
                ("bytesPerSecond", network.limits.bytes_per_second),
            )
            if value is not None
        },
    }
    servers = {} if network.dns_servers is None else {"dnsServers": list(network.dns_servers)}
    return {**{name: part for name, part in parts.items() if part}, **servers}


def summary(network: NetworkConfig) -> str:
    """In short, for logs."""
    access = "true" if network.allow_internet_access is None else str(network.allow_internet_access).lower()
    allowed, denied = ",".join(network.allow_out[:8]), ",".join(network.deny_out[:8])
    rules = len(network.rules) + len(network.transforms)
    return f"allow_internet_access={access} allow_out=[{allowed}] deny_out=[{denied}] rules={rules}"


def _rules(wire: object) -> tuple[tuple[EgressRule, ...], tuple[HostTransform, ...]]:
    if wire is None:
        return (), ()
    if isinstance(wire, list):
        return parse_rules(wire, field="network.rules"), ()
    return (), parse_transforms(wire, field="network.rules")


def _entries(wire: list[str] | None, name: str, *, names: bool) -> tuple[str, ...]:
    entries = wire or []
    require_at_most(entries, MOST_NETWORKS, name)
    found = (_entry(entry, f"{name}[{number}]", names=names) for number, entry in enumerate(entries))
    return tuple(dict.fromkeys(found))


def _entry(entry: str, name: str, *, names: bool) -> str:
    if not entry or len(entry) > _LONGEST_ENTRY:
        raise InvalidInput(f"{name} must be a text of 1 to {_LONGEST_ENTRY} characters", field=name)
    if ":" in entry:
        raise InvalidInput(f"{name}: IPv6 is closed for sandboxes, and ports are not part of an entry", field=name)
    if is_network(entry):
        return _network(entry, name)
    if names:
        return parse_domain(entry, name)
    raise InvalidInput(
        f"{name}: {entry!r} is a domain; only IPv4 addresses and networks can be denied. To let through some domains "
        "alone, deny '0.0.0.0/0' and put them into allowOut",
        field=name,
    )


def _network(entry: str, name: str) -> str:
    try:
        network = IPv4Network(entry, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise InvalidInput(f"{name} is no IPv4 address or network: {error}", field=name) from None
    if "/" in entry and not entry.rpartition("/")[2].isdecimal():
        raise InvalidInput(f"{name}: write the length of the network's prefix behind the slash", field=name)
    return str(network) if "/" in entry else str(network.network_address)


def _servers(wire: list[str] | None) -> tuple[str, ...] | None:
    if wire is None:
        return None
    require_at_most(wire, MOST_SERVERS, "network.dnsServers")
    return tuple(dict.fromkeys(_server(entry, f"network.dnsServers[{n}]") for n, entry in enumerate(wire)))


def _server(entry: str, name: str) -> str:
    try:
        return str(IPv4Address(entry))
    except ValueError:
        raise InvalidInput(f"{name} must be an IPv4 address", field=name) from None


def _mode(wire: str | None) -> DnsMode | None:
    if wire is None:
        return None
    try:
        return DnsMode(wire)
    except ValueError:
        raise InvalidInput("network.dns must be `open` or `strict`", field="network.dns") from None


def _limits(wire: Mapping[str, int | None]) -> NetworkLimits:
    connections, rate = wire.get("connections"), wire.get("bytes_per_second")
    if connections is not None and connections not in CONNECTION_STEPS:
        steps = ", ".join(map(str, CONNECTION_STEPS))
        raise InvalidInput(f"network.limits.connections must be one of {steps}", field="network.limits.connections")
    if rate is not None and not _LEAST_BYTES <= rate <= _MOST_BYTES:
        place = "network.limits.bytesPerSecond"
        raise InvalidInput(f"{place} must be {_LEAST_BYTES} to {_MOST_BYTES}", field=place)
    return NetworkLimits(connections, rate)


def _transforms_to_wire(network: NetworkConfig, *, secrets: bool = False) -> dict[str, Any]:
    return {
        transform.host: [
            {"transform": {"headers": {one.header: one.value if secrets else REDACTED for one in transform.inject}}}
        ]
        for transform in network.transforms
    }
