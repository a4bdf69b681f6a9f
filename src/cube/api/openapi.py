"""The description of the API at ``/openapi.json``: what FastAPI finds out, made to say what really happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from cube.api.schemas.base import ResponseBody
from cube.api.schemas.common import Error, VolumeError

_DESCRIPTIONS = {
    400: "The request is malformed; the message names the field.",
    401: "No API key or token, or a wrong one.",
    403: "The file system refuses it.",
    404: "There is no such thing.",
    409: "Another operation is under way, or the state does not allow this one.",
    413: "The body is too large.",
    422: "The Idempotency-Key came with another request before.",
    429: "A limit is reached; `Retry-After` says when to try again.",
    500: "Something broke; the log has the reason under the request's id.",
    501: "This server or its runtime cannot do it.",
    503: "Not now; `Retry-After` says when to try again.",
    507: "The node has no room left.",
}
#: Any route may answer these.
_ALWAYS = (400, 401, 500)


def failures(*codes: int, model: type[ResponseBody] = Error) -> dict[int | str, dict[str, Any]]:
    """FastAPI's ``responses`` for the failures of a route, besides those that every route has."""
    return {code: {"model": model, "description": _DESCRIPTIONS[code]} for code in sorted({*_ALWAYS, *codes})}


def volume_failures(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The same for a route to the content of a volume."""
    return failures(403, 404, *codes, model=VolumeError)


def install(app: FastAPI, max_timeout: int, more: Sequence[BaseRoute] = ()) -> None:
    """Have ``app`` serve the corrected description, in which timeouts go up to ``max_timeout``.

    ``more`` are routes beside the application's own that are to be described too.
    """

    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app, max_timeout, more)
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]  # the way that FastAPI documents


def _describe(app: FastAPI, max_timeout: int, more: Sequence[BaseRoute]) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=[*app.routes, *more])
    for operations in schema["paths"].values():
        for operation in operations.values():
            _drop_validation(operation["responses"])
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    _bound_timeouts(schema, max_timeout)
    _close_patterns(schema)
    _add_security(schema)
    return schema


def _drop_validation(responses: dict[str, Any]) -> None:
    """FastAPI announces 422 for validation failures, which are answered 400 here."""
    if "HTTPValidationError" in str(responses.get("422", "")):
        del responses["422"]


def _bound_timeouts(schema: dict[str, Any], max_timeout: int) -> None:
    """The bound is a setting, so the classes of the bodies do not know it."""
    for body in schema["components"]["schemas"].values():
        timeout = body.get("properties", {}).get("timeout", {})
        for variant in [timeout, *timeout.get("anyOf", [])]:
            if "maximum" in variant:
                variant["maximum"] = max_timeout


def _close_patterns(node: Any) -> None:
    """Keys that match no pattern are refused: JSON Schema allows them unless told otherwise."""
    if isinstance(node, dict):
        if "patternProperties" in node:
            node["additionalProperties"] = False
        for value in node.values():
            _close_patterns(value)
    elif isinstance(node, list):
        for value in node:
            _close_patterns(value)


def _add_security(schema: dict[str, Any]) -> None:
    schema["components"]["securitySchemes"] = {
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-KEY"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    # The empty alternative: a server without a key asks for none.
    schema["security"] = [{"apiKey": []}, {"bearer": []}, {}]
