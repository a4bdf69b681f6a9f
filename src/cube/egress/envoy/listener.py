"""The listener that connections of sandboxes are diverted to, as a ``Listener`` resource in JSON form.

TLS and plain HTTP are told apart by their first bytes, whatever the port; everything else is hung up on. For TLS a
certificate is asked for by the name in the handshake, and there is none for names that no rule could allow.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cube.egress.envoy import access_log
from cube.egress.envoy.clusters import BUFFER_BYTES, PLAIN, TLS, TLS_HTTP1, World, dns_cache
from cube.egress.envoy.replies import local_replies
from cube.egress.envoy.vocabulary import (
    ADS,
    CAPTURE,
    CLUSTER_HEADER,
    GATE,
    INJECT,
    SOURCE_HEADER,
    WHERE_HEADER,
    struct,
)
from cube.proxy.listener import lua_string
from cube.proxy.vocabulary import Json, extension, seconds

#: A stream on which nothing moves; language models think, and WebSockets are silent, for minutes.
_STREAM_IDLE_SECONDS = 3600
_CONNECTION_IDLE_SECONDS = 300
_HEADERS_SECONDS = 30
#: A certificate is signed in a millisecond. Longer means that the control plane is away.
_HANDSHAKE_SECONDS = 5
_FIRST_BYTES_SECONDS = 15
_FORBIDDEN_PREFIXES = ("x-cube-", "x-envoy-", "x-forwarded-")
_FORBIDDEN = ("forwarded", "x-real-ip")
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_LUA = "envoy.extensions.filters.http.lua.v3.Lua"
_SELECTOR = "envoy.extensions.transport_sockets.tls.cert_selectors.on_demand_secret.v3.Config"
_MAPPER = "envoy.extensions.transport_sockets.tls.cert_mappers.sni.v3.SNI"
#: Asked for when a handshake names nothing; there is never such a certificate.
NAMELESS = "nameless"


def egress_listener(port: int, world: World, spool: Path) -> Json:
    """The listener on ``127.0.0.1:port``, for packets that TPROXY hands over with their true destination."""
    return {
        "name": "egress",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "transparent": True,
        "listener_filters": [_inspector(*one) for one in _INSPECTORS],
        "listener_filters_timeout": seconds(_FIRST_BYTES_SECONDS),
        "continue_on_listener_filters_timeout": False,
        "enable_reuse_port": False,
        "connection_balance_config": {"exact_balance": {}},
        "tcp_backlog_size": 4096,
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "access_log": access_log.handshakes(spool),
        "filter_chains": [_tls_chain(world, spool), _plain_chain(world, spool)],
    }


_INSPECTORS = (
    ("envoy.filters.listener.original_dst", "original_dst.v3.OriginalDst"),
    ("envoy.filters.listener.tls_inspector", "tls_inspector.v3.TlsInspector"),
    ("envoy.filters.listener.http_inspector", "http_inspector.v3.HttpInspector"),
)


def _inspector(name: str, message: str) -> Json:
    return extension(name, f"envoy.extensions.filters.listener.{message}")


def _tls_chain(world: World, spool: Path) -> Json:
    return {
        "name": "tls",
        "filter_chain_match": {"transport_protocol": "tls"},
        "transport_socket": _intercepting(),
        "transport_socket_connect_timeout": seconds(_HANDSHAKE_SECONDS),
        "filters": [_manager("https", 443, TLS, world, spool)],
    }


def _plain_chain(world: World, spool: Path) -> Json:
    protocols = ["http/1.0", "http/1.1", "h2c"]
    return {
        "name": "plain",
        "filter_chain_match": {"transport_protocol": "raw_buffer", "application_protocols": protocols},
        "filters": [_manager("http", 80, PLAIN, world, spool)],
    }


def _intercepting() -> Json:
    mapper = {"name": "envoy.tls.certificate_mappers.sni", "typed_config": struct(_MAPPER, default_value=NAMELESS)}
    selector = {
        "name": "envoy.tls.certificate_selectors.on_demand_secret",
        "typed_config": struct(_SELECTOR, config_source=ADS, certificate_mapper=mapper),
    }
    return extension(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context={
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "custom_tls_certificate_selector": selector,
        },
        # The selector asks for it.
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )


def _manager(scheme: str, port: int, cluster: str, world: World, spool: Path) -> Json:
    # Servers upgrade HTTP/1.1 alone.
    upgrading = {TLS: TLS_HTTP1}.get(cluster, cluster)
    return extension(
        "envoy.filters.network.http_connection_manager",
        _HCM,
        stat_prefix=scheme,
        codec_type="AUTO",
        scheme_header_transformation={"scheme_to_overwrite": scheme},
        http2_protocol_options=_http2(),
        common_http_protocol_options={"idle_timeout": seconds(_CONNECTION_IDLE_SECONDS)},
        stream_idle_timeout=seconds(_STREAM_IDLE_SECONDS),
        request_headers_timeout=seconds(_HEADERS_SECONDS),
        early_header_mutation_extensions=[_own_headers(cluster)],
        use_remote_address=True,
        skip_xff_append=True,
        internal_address_config={},
        generate_request_id=False,
        server_header_transformation="PASS_THROUGH",
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        upgrade_configs=[{"upgrade_type": "websocket", "filters": _filters(scheme, port, world, upgrading)}],
        local_reply_config=local_replies(),
        access_log=access_log.requests(spool),
        scoped_routes=_scoped_routes(),
        http_filters=_filters(scheme, port, world),
    )


def _filters(scheme: str, port: int, world: World, upgrading: str = "") -> list[Json]:
    return [_gate(scheme, port, upgrading), _capture(), _injections(), _forward_proxy(world), _router()]


def _scoped_routes() -> Json:
    key = {"header_value_extractor": {"name": SOURCE_HEADER, "element_separator": "", "index": 0}}
    return {
        "name": "sandboxes",
        "scope_key_builder": {"fragments": [key]},
        "rds_config_source": ADS,
        "scoped_rds": {"scoped_rds_config_source": ADS},
    }


def _own_headers(cluster: str) -> Json:
    """Before routes are looked for: the sandbox's attempts at our headers go, and ours are set."""
    prefixes: list[Json] = [
        {"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": True}}} for prefix in _FORBIDDEN_PREFIXES
    ]
    removed: list[Json] = [{"remove": name} for name in _FORBIDDEN]
    source = _set(SOURCE_HEADER, "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%")
    where = _set(WHERE_HEADER, "%DOWNSTREAM_LOCAL_PORT% %REQUESTED_SERVER_NAME% %REQ(:AUTHORITY)%")
    return extension(
        "envoy.http.early_header_mutation.header_mutation",
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[*prefixes, *removed, source, where, _set(CLUSTER_HEADER, cluster)],
    )


def _set(name: str, value: str) -> Json:
    header = {"key": name, "value": value}
    return {"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}


def _gate(scheme: str, port: int, upgrading: str) -> Json:
    """Off, but for upgrades and on routes that ask for it."""
    source = {"inline_string": script("gate.lua", scheme=scheme, port=str(port), upgrading=upgrading)}
    return {**extension(GATE, _LUA, default_source_code=source), "disabled": not upgrading}


def _capture() -> Json:
    """Off, but on the routes of rules whose requests are written down in full."""
    source = {"inline_string": script("capture.lua")}
    return {**extension(CAPTURE, _LUA, default_source_code=source), "disabled": True}


def script(name: str, **config: str) -> str:
    """A Lua program of this package with its configuration in front."""
    fields = ", ".join(f"{key} = {lua_string(value)}" for key, value in config.items())
    text = resources.files("cube.egress.envoy").joinpath(name).read_text(encoding="utf-8")
    return f"local CONFIG = {{ {fields} }}\n{text}"


def _injections() -> Json:
    """Does nothing, but for routes that put filters of their own in this place."""
    return {"name": INJECT, "typed_config": struct("envoy.extensions.filters.http.filter_chain.v3.FilterChainConfig")}


def _forward_proxy(world: World) -> Json:
    message = "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig"
    return {
        "name": "envoy.filters.http.dynamic_forward_proxy",
        "typed_config": struct(message, dns_cache_config=dns_cache(world)),
    }


def _router() -> Json:
    message = "envoy.extensions.filters.http.router.v3.Router"
    return extension("envoy.filters.http.router", message, suppress_envoy_headers=True)


def _http2() -> Json:
    return {
        "max_concurrent_streams": 256,
        "initial_stream_window_size": BUFFER_BYTES,
        "initial_connection_window_size": 4 * BUFFER_BYTES,
    }
