"""What Envoy must know before it can ask: who it is, its admin socket, and where the control plane listens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cube.proxy.vocabulary import Json, extension, pipe, seconds, typed

_MAX_CONNECTIONS = 50_000
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def bootstrap(node: str, admin_socket: Path, xds_socket: Path, clusters: Iterable[Json] = ()) -> Json:
    """The bootstrap configuration of a node that fetches its listeners and clusters over one ADS stream.

    ``clusters`` are such that are there from the start, in whose configuration Envoy may know more than Python does.
    """
    source = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": node, "cluster": "cube"},
        "admin": {"address": pipe(admin_socket, mode=0o600)},
        "static_resources": {"clusters": [_xds_cluster(xds_socket), *clusters]},
        "dynamic_resources": {"ads_config": _ads(), "cds_config": source, "lds_config": source},
        "overload_manager": {"resource_monitors": [_connection_limit()]},
    }


def _ads() -> Json:
    """Without the short back-off Envoy takes 11 s to come back to a restarted control plane."""
    back_off = {"base_interval": seconds(0.1), "max_interval": seconds(0.5)}
    service = {"envoy_grpc": {"cluster_name": "xds", "retry_policy": {"retry_back_off": back_off}}}
    return {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [service],
    }


def _xds_cluster(socket: Path) -> Json:
    keepalive = {"interval": seconds(30), "timeout": seconds(5)}
    http2 = {"http2_protocol_options": {"connection_keepalive": keepalive}}
    return {
        "name": "xds",
        "type": "STATIC",
        "connect_timeout": seconds(1),
        "load_assignment": {
            "cluster_name": "xds",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": pipe(socket)}}]}],
        },
        "typed_extension_protocol_options": {_HTTP_OPTIONS: typed(_HTTP_OPTIONS, explicit_http_config=http2)},
    }


def _connection_limit() -> Json:
    return extension(
        "envoy.resource_monitors.global_downstream_max_connections",
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=_MAX_CONNECTIONS,
    )
