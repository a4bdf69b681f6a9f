"""The upstreams of the public listener, as ``Cluster`` resources in JSON form."""

from __future__ import annotations

from pathlib import Path

from cube.proxy.vocabulary import Json, pipe, seconds, typed

#: How much may wait on one connection for a slow reader before the writer is held up.
BUFFER_BYTES = 256 * 1024
#: Connecting to a sandbox takes microseconds; more means that nobody will answer.
_CONNECT_SECONDS = 3
#: Shorter than uvicorn's keep-alive of 5 s: never reuse a connection that the server is about to close.
_SERVICE_IDLE_SECONDS = 4
#: Servers inside sandboxes are of every kind; a short life for idle connections keeps that race small too.
_SANDBOX_IDLE_SECONDS = 1
#: Envoy's default of 1,024 for a whole cluster would let one sandbox starve the others.
_PLENTY = 65_535
_PER_SANDBOX_PORT = 1024
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def service(name: str, socket: Path) -> Json:
    """An HTTP/1.1 server of this node on a unix socket."""
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": seconds(_CONNECT_SECONDS),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [_endpoint(socket)]}]},
        "circuit_breakers": {"thresholds": [_thresholds()]},
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: typed(
                _HTTP_OPTIONS,
                common_http_protocol_options={"idle_timeout": seconds(_SERVICE_IDLE_SECONDS)},
                explicit_http_config={"http_protocol_options": {}},
            )
        },
    }


def sandboxes() -> Json:
    """The sandboxes themselves: dials the address that ``routing.lua`` has put into the metadata, nothing else.

    Speaks the protocol that the client speaks, HTTP/1.1 or HTTP/2 without TLS (gRPC needs the latter).
    """
    return {
        "name": "sandbox",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"metadata_key": {"key": "cube", "path": [{"key": "upstream"}]}},
        "connect_timeout": seconds(_CONNECT_SECONDS),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": {
            "thresholds": [_thresholds()],
            "per_host_thresholds": [{"max_connections": _PER_SANDBOX_PORT}],
        },
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: typed(
                _HTTP_OPTIONS,
                common_http_protocol_options={"idle_timeout": seconds(_SANDBOX_IDLE_SECONDS)},
                use_downstream_protocol_config={"http_protocol_options": {}, "http2_protocol_options": http2()},
            )
        },
    }


def http2() -> Json:
    """HTTP/2 windows that fit the buffer limit, so that one stream cannot fill the memory."""
    return {
        "max_concurrent_streams": 1024,
        "initial_stream_window_size": BUFFER_BYTES,
        "initial_connection_window_size": 4 * BUFFER_BYTES,
    }


def _endpoint(socket: Path) -> Json:
    return {"endpoint": {"address": pipe(socket)}}


def _thresholds() -> Json:
    names = ("max_connections", "max_pending_requests", "max_requests")
    return dict.fromkeys(names, _PLENTY)
