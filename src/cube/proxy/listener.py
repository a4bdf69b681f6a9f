"""The public listener: one port for the API and for all sandbox traffic, as a ``Listener`` resource in JSON form."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cube.proxy.certificates import Certificate, Tls
from cube.proxy.clusters import BUFFER_BYTES, http2
from cube.proxy.replies import local_replies
from cube.proxy.vocabulary import Json, extension, seconds

#: CubeProxy's limit for a stream on which nothing moves (send and read time-out of 7,206 s).
_STREAM_IDLE_SECONDS = 7206
#: A client connection without a request.
_CONNECTION_IDLE_SECONDS = 600
#: Time to send the request's headers.
_HEADERS_SECONDS = 30
#: The directory may wake a sandbox up before it answers.
_LOOKUP_SECONDS = 60
#: Envoy's or cube's own, and what only a proxy may say: never taken from a client.
_FORBIDDEN_PREFIXES = ("x-cube-", "x-envoy-", "x-forwarded-")
_FORBIDDEN = ("forwarded", "x-real-ip")
#: Who is told apart by whether a connection begins with a TLS handshake has this long to begin.
_HANDSHAKE_SECONDS = 10
_LOOPBACK = ("127.0.0.0/8", "::1/128")
_TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def public_listener(host: str, port: int, domain: str, routes: Path, tls: Tls | None = None) -> Json:
    """The listener on ``host:port``; ``domain`` (without a port) is that of ``<port>-<sandboxID>.<domain>``."""
    manager = extension("envoy.filters.network.http_connection_manager", _HCM, **_manager(domain, routes))
    return {
        **_chains(manager, host, tls),
        "name": "public",
        "address": {"socket_address": {"address": host, "port_value": port, "ipv4_compat": host == "::"}},
        # One socket for all workers: with SO_REUSEPORT a second instance would silently take half of the connections.
        "enable_reuse_port": False,
        "connection_balance_config": {"exact_balance": {}},
        "tcp_backlog_size": 4096,
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
    }


def _chains(manager: Json, host: str, tls: Tls | None) -> Json:
    """What is done with a connection, by how it begins."""
    plain: Json = {"filters": [manager]}
    if tls is None:
        return {"filter_chains": [plain]}
    plain["filter_chain_match"] = {"transport_protocol": "raw_buffer"}
    if tls.only:
        plain["filter_chain_match"]["source_prefix_ranges"] = [_prefix(text) for text in _here(host)]
    secured = {"filter_chain_match": {"transport_protocol": "tls"}, "transport_socket": _tls_socket(tls.certificate)}
    inspector = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
    return {
        "filter_chains": [plain, secured | {"filters": [manager]}],
        "listener_filters": [extension("envoy.filters.listener.tls_inspector", inspector)],
        "listener_filters_timeout": seconds(_HANDSHAKE_SECONDS),
    }


def _here(host: str) -> tuple[str, ...]:
    """Where connections from this machine come from: to an address of its own they come from that address."""
    if host in ("0.0.0.0", "::"):  # noqa: S104  comparison only
        return _LOOPBACK
    return (*_LOOPBACK, f"{host}/{128 if ':' in host else 32}")


def _prefix(text: str) -> Json:
    address, _, length = text.partition("/")
    return {"address_prefix": address, "prefix_len": int(length)}


def _tls_socket(certificate: Certificate) -> Json:
    pair = {
        "certificate_chain": {"inline_string": certificate.chain},
        "private_key": {"inline_string": certificate.key},
    }
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [pair],
    }
    return extension("envoy.transport_sockets.tls", _TLS, common_tls_context=common)


def _manager(domain: str, routes: Path) -> Json:
    return {
        "stat_prefix": "public",
        "codec_type": "AUTO",
        "http2_protocol_options": http2(),
        "common_http_protocol_options": {"idle_timeout": seconds(_CONNECTION_IDLE_SECONDS)},
        "stream_idle_timeout": seconds(_STREAM_IDLE_SECONDS),
        "request_headers_timeout": seconds(_HEADERS_SECONDS),
        "early_header_mutation_extensions": [_strip_headers()],
        "use_remote_address": True,
        "skip_xff_append": True,
        "internal_address_config": {},
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        # Paths belong to the application in the sandbox; what envd must not serve is decided in routing.lua.
        "normalize_path": False,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "local_reply_config": local_replies(),
        "route_config": _routes(),
        "http_filters": [_decision(domain, routes), _router()],
    }


def _strip_headers() -> Json:
    matches: list[Json] = [
        {"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": True}}} for prefix in _FORBIDDEN_PREFIXES
    ]
    return extension(
        "envoy.http.early_header_mutation.header_mutation",
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=matches + [{"remove": name} for name in _FORBIDDEN],
    )


def _routes() -> Json:
    peer = {"key": "x-forwarded-for", "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}
    return {
        "name": "public",
        "request_headers_to_add": [{"header": peer, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
        "request_headers_to_remove": ["x-envoy-external-address", "x-envoy-internal"],
        "virtual_hosts": [
            {"name": "public", "domains": ["*"], "routes": [_route(kind) for kind in ("sandbox", "envd", "api")]}
        ],
    }


def _route(kind: str) -> Json:
    decided = {"filter": "cube", "path": [{"key": "kind"}], "value": {"string_match": {"exact": kind}}}
    return {
        "name": kind,
        "match": {"prefix": "/", "dynamic_metadata": [decided]},
        "route": {"cluster": kind, "timeout": "0s"},
    }


def _decision(domain: str, routes: Path) -> Json:
    source = {"inline_string": routing_script(domain, routes)}
    message = "envoy.extensions.filters.http.lua.v3.Lua"
    return extension("envoy.filters.http.lua", message, default_source_code=source)


def _router() -> Json:
    message = "envoy.extensions.filters.http.router.v3.Router"
    return extension("envoy.filters.http.router", message, suppress_envoy_headers=True)


def routing_script(domain: str, routes: Path) -> str:
    """``routing.lua`` with its configuration and what it uses in front."""
    fields = {"domain": lua_string(domain.lower()), "routes": lua_string(str(routes))}
    fields["lookup_timeout_ms"] = str(_LOOKUP_SECONDS * 1000)
    config = ", ".join(f"{name} = {value}" for name, value in fields.items())
    package = resources.files("cube.proxy")
    digest, script = (package.joinpath(name).read_text(encoding="utf-8") for name in ("sha256.lua", "routing.lua"))
    return f"local CONFIG = {{ {config} }}\n{digest}\n{script}"


def lua_string(text: str) -> str:
    """A Lua literal of ``text``, every byte as a decimal escape: no character has a meaning of its own."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()) + '"'
