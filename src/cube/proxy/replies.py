"""What a client gets when a request does not reach its goal: JSON in the shapes that E2B's clients read.

Envoy's own answers ("local replies") are matched by what ``routing.lua`` decided and by why it went wrong; the first
mapper that fits is used. Response flags: UF connection failed, UC connection closed before an answer, UPE the answer
was not HTTP, UO a connection limit was reached.
"""

from __future__ import annotations

from typing import Any

from cube.proxy.vocabulary import Json, typed

_SANDBOX: Json = {"sandboxId": "%DYNAMIC_METADATA(cube:sandbox_id)%"}
_PORT: Json = {"port": "%DYNAMIC_METADATA(cube:port)%"}
_RETRY: Json = {"header": {"key": "retry-after", "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def local_replies() -> Json:
    """``LocalReplyConfig`` of the public listener."""
    return {
        "mappers": [
            _refused_for_sandbox(),
            _refused(),
            _no_answer(_timed_out(), 502, "The sandbox is running but the port did not accept the connection in time"),
            _no_answer(_flag("UF"), 502, "The sandbox is running but port is not open"),
            _no_answer(_flag("UC"), 502, "The service on this port closed the connection without an answer"),
            _no_answer(_flag("UPE"), 502, "The service on this port did not answer in HTTP"),
            _no_answer(_flag("UO"), 503, "Too many connections to this port are open; close some and try again"),
            _service_down("api"),
            _service_down("envd"),
        ],
        "body_format": _body({"message": "The request cannot be served: %RESPONSE_CODE_DETAILS%"}, "%RESPONSE_CODE%"),
    }


def _refused_for_sandbox() -> Json:
    known = _metadata("sandbox_id", {"present_match": True})
    body = _body(_SANDBOX | {"message": "%LOCAL_REPLY_BODY%"}, "%RESPONSE_CODE%")
    return {"filter": _all(_kind("refused"), known), "body_format_override": body}


def _refused() -> Json:
    return {
        "filter": _kind("refused"),
        "body_format_override": _body({"message": "%LOCAL_REPLY_BODY%"}, "%RESPONSE_CODE%"),
    }


def _no_answer(reason: Json, status: int, message: str) -> Json:
    return {
        "filter": _all(_kind("sandbox"), reason),
        "status_code": status,
        "body_format_override": _body(_SANDBOX | _PORT | {"message": message}, status),
    }


def _service_down(kind: str) -> Json:
    return {
        "filter": _all(_kind(kind), _flag("UF", "UC", "UO", "UH", "NC")),
        "status_code": 503,
        "headers_to_add": [_RETRY],
        "body_format_override": _body({"message": "The service is starting or restarting; try again in a second"}, 503),
    }


def _body(fields: Json, code: int | str) -> Json:
    return {"json_format": fields | {"code": code}}


def _metadata(key: str, value: Json) -> Json:
    matcher = {"filter": "cube", "path": [{"key": key}], "value": value}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


def _kind(kind: str) -> Json:
    return _metadata("kind", {"string_match": {"exact": kind}})


def _flag(*flags: str) -> Json:
    return {"response_flag_filter": {"flags": list(flags)}}


def _timed_out() -> Json:
    expression = 'response.code_details.contains("connection_timeout")'
    name = "envoy.access_loggers.extension_filters.cel"
    config = typed("envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=expression)
    return {"extension_filter": {"name": name, "typed_config": config}}


def _all(*filters: Any) -> Json:
    return {"and_filter": {"filters": list(filters)}}
