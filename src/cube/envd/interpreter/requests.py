"""Bodies of requests, checked. Everything wrong with one is an ``InvalidInput`` that names the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from cube.envd.interpreter.kernel import Cell
from cube.envd.interpreter.languages import Language, language
from cube.model.errors import InvalidInput

#: Longest body, in bytes.
MAX_BODY = 4 * 1024 * 1024

_MAX_PATH = 4096


@dataclass(frozen=True, slots=True)
class ExecuteRequest:
    """``POST /execute``: code for a context, or for the default context of a language."""

    cell: Cell
    context_id: str | None
    language: Language


@dataclass(frozen=True, slots=True)
class ContextRequest:
    """``POST /contexts``."""

    language: Language
    cwd: str


def parse_execute(body: bytes) -> ExecuteRequest:
    """Read the body of ``POST /execute``."""
    values = _object(body)
    code, context_id, name = (_text(values, key) for key in ("code", "context_id", "language"))
    if code is None:
        raise InvalidInput("code is missing; give the code to run.", field="code")
    if context_id and name:
        raise InvalidInput("Only one of context_id or language can be provided", field="language")
    chosen = language(name or "python")
    cell = Cell(code, _variables(values.get("env_vars")), typescript=chosen is Language.TYPESCRIPT)
    return ExecuteRequest(cell, context_id or None, chosen)


def parse_context(body: bytes) -> ContextRequest:
    """Read the body of ``POST /contexts``; it may be empty."""
    values = _object(body or b"{}")
    cwd = _text(values, "cwd") or ""
    if len(cwd) > _MAX_PATH or "\0" in cwd:
        raise InvalidInput("cwd is not a path.", field="cwd")
    return ContextRequest(language(_text(values, "language") or "python"), cwd)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"The body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput("The body is not a JSON object.")
    return value


def _text(values: dict[str, Any], key: str) -> str | None:
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{key} is not a string.", field=key)
    return value


def _variables(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidInput("env_vars is not an object of strings.", field="env_vars")
    for name, text in value.items():
        if not name or "=" in name or "\0" in name + text:
            raise InvalidInput(f"env_vars has a variable that cannot be set: {name[:60]!r}", field="env_vars")
    return value
