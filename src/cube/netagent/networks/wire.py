"""Networks as the messages of ``network.proto`` speak of them."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from protobuf.wkt.google.protobuf.struct_pb import Struct

from cube.model.errors import InvalidInput
from cube.model.network import NetworkConfig
from cube.model.network_wire import WireNetwork, parse_network, shown
from cube.netagent.agent import Attachment
from cube.netagent.factory import GATEWAY_MAC, SANDBOX_MAC
from cube.netagent.networks.proto.network import network_pb as pb
from cube.netagent.networks.state import Kind, Network, Wanted
from cube.netagent.tap import TapLink
from cube.netagent.veth import SANDBOX_INTERFACE

_LIMITS: Final = ("connections", "bytes_per_second")


def wanted(request: pb.EnsureNetworkRequest) -> Wanted:
    """What a request asks for; raises ``InvalidInput`` that names the field."""
    kind = request.kind or Kind.TAP
    if kind not in list(Kind):
        raise InvalidInput("kind must be `tap` or `veth`", field="kind")
    config = parsed(request.cube_network_config)
    return Wanted(request.sandbox_id, Kind(kind), config, request.idempotency_key)


def parsed(message: pb.CubeNetworkConfig | None) -> NetworkConfig:
    """A policy; raises ``InvalidInput``."""
    if message is None:
        return NetworkConfig()
    rules: Any = None if message.rules is None else _integers(message.rules.to_python())
    limits = message.limits
    return parse_network(
        WireNetwork(
            allow_internet_access=message.allow_internet_access if message.has_field("allow_internet_access") else None,
            allow_out=list(message.allow_out),
            deny_out=list(message.deny_out),
            rules=rules,
            dns_servers=list(message.dns_servers) or None,
            dns=message.dns or None,
            limits={
                {"bytes_per_second": "bytesPerSecond"}.get(name, name): getattr(limits, name)
                for name in _LIMITS
                if limits is not None and limits.has_field(name)
            },
        )
    )


def network(found: Network) -> pb.Network:
    """A network that was asked for here."""
    asked = found.wanted
    message = _message(asked.sandbox_id, asked.kind, found.interface, found.index, asked.config)
    message.owner = "rpc"
    message.state = "quarantined" if found.quarantined else "ready"
    message.reason = found.reason
    message.ifindex = found.interface_index
    message.idempotency_key = asked.idempotency_key
    if found.link is not None:
        _addressed(message, found.link.address)
    return message


def attachment(found: Attachment) -> pb.Network:
    """The network of a sandbox of the node's own."""
    kind = Kind.TAP if isinstance(found.link, TapLink) else Kind.VETH
    message = _message(found.sandbox_id, kind, found.link.interface, found.link.index, found.network)
    message.owner, message.state = "node", "ready"
    _addressed(message, found.address)
    return message


def _message(sandbox_id: str, kind: Kind, interface: str, index: int, config: NetworkConfig) -> pb.Network:
    return pb.Network(
        sandbox_id=sandbox_id,
        kind=kind.value,
        persist_metadata={"host_tap_name": interface, "index": str(index)},
        policy=Struct.from_python(shown(config)),
    )


def _addressed(message: pb.Network, address: ipaddress.IPv4Address) -> None:
    """What the sandbox's end has; the gateway's address is the one before (RFC 3021)."""
    gateway = str(address - 1)
    message.interfaces = [
        pb.Interface(name=SANDBOX_INTERFACE, mac=_mac(SANDBOX_MAC), address=f"{address}/31", gateway=gateway)
    ]
    message.routes = [pb.Route(destination="0.0.0.0/0", gateway=gateway)]
    message.arp_neighbors = [pb.ArpNeighbor(address=gateway, mac=_mac(GATEWAY_MAC))]
    message.persist_metadata |= {"sandbox_ip": str(address), "mvm_inner_ip": str(address), "gateway_ip": gateway}


def _mac(packed: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in packed)


def _integers(value: Any) -> Any:
    """Numbers of ``google.protobuf.Value`` are all floating; what is whole was meant so."""
    if isinstance(value, dict):
        return {name: _integers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_integers(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
