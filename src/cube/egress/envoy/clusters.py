"""The upstreams of the outbound Envoy: the world, dialled by name.

A cluster that dialled the address which the sandbox chose would hand injected headers to whoever lives there. So
names are resolved here, and addresses that are not of the public internet are refused once they are known.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cube.proxy.vocabulary import Json, extension, seconds, typed

#: How much may wait on one connection for a slow reader before the writer is held up.
BUFFER_BYTES = 1024 * 1024
#: The clusters.
TLS, TLS_HTTP1, PLAIN = "tls", "tls-http1", "plain"

_CONNECT_SECONDS = 10
_IDLE_SECONDS = 60
_PLENTY = 65_535
_MOST_NAMES = 65_536
_NAME_SECONDS = 60
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_DFP = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"

#: What is not the public internet, from the registries of special-purpose addresses.
PRIVATE_RANGES = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
    *("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2002::/16"),
    *("fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
)


@dataclass(frozen=True, slots=True)
class World:
    """How the world is reached."""

    #: PEM file with the authorities that servers are checked against.
    trust: Path
    #: Name servers, ``address`` or ``address:port``; none means those of the host.
    resolvers: tuple[str, ...] = ()
    #: Addresses that are never dialled.
    refused: tuple[str, ...] = PRIVATE_RANGES


def refused_ranges(allowed: Iterable[str]) -> tuple[str, ...]:
    """The private ranges without those that are allowed. Raises ``ValueError`` for what is no network."""
    ranges = [ipaddress.ip_network(text) for text in PRIVATE_RANGES]
    for text in allowed:
        network = ipaddress.ip_network(text)
        ranges = [rest for one in ranges for rest in _without(one, network)]
    return tuple(str(one) for one in ranges)


_N = TypeVar("_N", ipaddress.IPv4Network, ipaddress.IPv6Network)
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _without(network: _Network, hole: _Network) -> Sequence[_Network]:
    if isinstance(network, ipaddress.IPv4Network) and isinstance(hole, ipaddress.IPv4Network):
        return _rest(network, hole)
    if isinstance(network, ipaddress.IPv6Network) and isinstance(hole, ipaddress.IPv6Network):
        return _rest(network, hole)
    return [network]


def _rest(network: _N, hole: _N) -> Sequence[_N]:
    if not network.overlaps(hole):
        return [network]
    return [] if network.subnet_of(hole) else list(network.address_exclude(hole))


def dns_cache(world: World) -> Json:
    """What the forward proxy's filter and its clusters share; Envoy wants it to be the same in all of them."""
    return {
        "name": "world",
        "dns_lookup_family": "V4_PREFERRED",
        "dns_min_refresh_rate": seconds(1),
        "host_ttl": seconds(_NAME_SECONDS),
        "max_hosts": _MOST_NAMES,
        "dns_query_timeout": seconds(5),
        "dns_failure_refresh_rate": {"base_interval": seconds(1), "max_interval": seconds(5)},
        "dns_cache_circuit_breaker": {"max_pending_requests": _MOST_NAMES},
        "resolved_address_filter": {"ranges": [_cidr(text) for text in world.refused]},
        "typed_dns_resolver_config": _resolver(world.resolvers),
    }


def _resolver(servers: tuple[str, ...]) -> Json:
    options = {"use_tcp_for_dns_lookups": False, "no_default_search_domain": True}
    return extension(
        "envoy.network.dns_resolver.cares",
        "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
        resolvers=[_server(text) for text in servers],
        use_resolvers_as_fallback=False,
        dns_resolver_options=options,
    )


def _server(text: str) -> Json:
    address, _, port = text.partition(":")
    return {"socket_address": {"address": address, "port_value": int(port or 53), "protocol": "UDP"}}


def _cidr(text: str) -> Json:
    network = ipaddress.ip_network(text)
    return {"address_prefix": str(network.network_address), "prefix_len": network.prefixlen}


def world_clusters(world: World) -> list[Json]:
    """TLS with HTTP/2 where the server has it, TLS with HTTP/1.1 alone (upgrades need it), and no TLS."""
    http1: Json = {"http_protocol_options": {}}
    both = {"http_protocol_options": {}, "http2_protocol_options": _http2()}
    return [
        _cluster(TLS, world, {"auto_config": both}, tls=True),
        _cluster(TLS_HTTP1, world, {"explicit_http_config": http1}, tls=True),
        _cluster(PLAIN, world, {"use_downstream_protocol_config": both}),
    ]


def _cluster(name: str, world: World, protocols: Json, *, tls: bool = False) -> Json:
    secured = {"transport_socket": _tls(world.trust)} if tls else {}
    checked: Json = {"upstream_http_protocol_options": {"auto_sni": True, "auto_san_validation": True}} if tls else {}
    return {
        "name": name,
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": extension(
            "envoy.clusters.dynamic_forward_proxy",
            _DFP,
            dns_cache_config=dns_cache(world),
            # Asked for where there is no TLS, and so no name to check.
            allow_insecure_cluster_options=not tls,
        ),
        "connect_timeout": seconds(_CONNECT_SECONDS),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": {"thresholds": [dict.fromkeys(_LIMITS, _PLENTY)]},
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: typed(
                _HTTP_OPTIONS,
                common_http_protocol_options={"idle_timeout": seconds(_IDLE_SECONDS)},
                **protocols,
                **checked,
            )
        },
        **secured,
    }


_LIMITS = ("max_connections", "max_pending_requests", "max_requests", "max_retries")


def _tls(trust: Path) -> Json:
    return extension(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        common_tls_context={
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "validation_context": {"trusted_ca": {"filename": str(trust)}, "max_verify_depth": 4},
        },
    )


def _http2() -> Json:
    return {
        "max_concurrent_streams": 100,
        "initial_stream_window_size": BUFFER_BYTES,
        "initial_connection_window_size": 16 * BUFFER_BYTES,
    }
