"""What Envoy notes of requests and of failed handshakes: JSON lines for ``cube.egress.audit``, which finishes them.

They are a file and not a stream to the service: nothing is lost while that is away. Until it has redacted them they
are for its eyes alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cube.egress.envoy.vocabulary import OURS
from cube.proxy.vocabulary import Json, extension, typed

_FILE = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
_CEL = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
#: Headers that say nothing secret and something useful. No other is noted, but by ``capture.lua``.
_HEADERS = (
    *("accept", "accept-encoding", "accept-language", "cache-control", "content-encoding", "content-length"),
    *("content-type", "expect", "grpc-timeout", "range", "te", "transfer-encoding", "upgrade", "user-agent"),
)
#: The inspector of first bytes says this of every plain connection.
_FAILED = "connection.transport_failure_reason != '' && !connection.transport_failure_reason.contains('HTTP_REQUEST')"


def requests(spool: Path) -> list[Json]:
    """The access log of HTTP requests."""
    return [_file(spool, _request())]


def handshakes(spool: Path) -> list[Json]:
    """The access log of connections whose handshake failed."""
    return [{**_file(spool, _connection("tls_handshake")), "filter": _cel(_FAILED)}]


def _file(path: Path, line: Json) -> Json:
    return extension("envoy.access_loggers.file", _FILE, path=str(path), log_format={"json_format": line})


def _cel(expression: str) -> Json:
    config = typed(_CEL, expression=expression)
    return {"extension_filter": {"name": "envoy.access_loggers.extension_filters.cel", "typed_config": config}}


def _connection(event: str) -> dict[str, Any]:
    return {
        "event": event,
        "at": "%START_TIME(%s%9f)%",
        "connection": "%CONNECTION_ID%",
        "source": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
        "dialled": "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
        "port": "%DOWNSTREAM_LOCAL_PORT%",
        "sni": "%REQUESTED_SERVER_NAME%",
        "cipher": "%DOWNSTREAM_TLS_CIPHER%",
        "tls": "%DOWNSTREAM_TLS_VERSION%",
        "failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    }


def _request() -> dict[str, Any]:
    return {
        **_connection("http_request"),
        "protocol": "%PROTOCOL%",
        "scheme": "%REQ(:SCHEME)%",
        "method": "%REQ(:METHOD)%",
        "host": "%REQ(:AUTHORITY)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "status": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "received": "%BYTES_RECEIVED%",
        "sent": "%BYTES_SENT%",
        "milliseconds": "%DURATION%",
        "upstream": "%UPSTREAM_REMOTE_ADDRESS%",
        "upstream_tls": "%UPSTREAM_TLS_VERSION%",
        "upstream_subject": "%UPSTREAM_PEER_SUBJECT%",
        "upstream_issuer": "%UPSTREAM_PEER_ISSUER%",
        "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        "route": "%ROUTE_NAME%",
        "policy": f"%METADATA(ROUTE:{OURS})%",
        "notes": f"%DYNAMIC_METADATA({OURS})%",
        "headers": {name: f"%REQ({name.upper()})%" for name in _HEADERS},
    }
