"""The lines of an ``/execute`` response, as E2B's clients parse them: each a JSON object, none of them blank."""

from __future__ import annotations

import time
from typing import Any

import orjson

from cube.envd.interpreter.events import Event, Failed, Shown, Started, Text

#: A type that clients ignore, sent while there is nothing to say.
KEEPALIVE = b'{"type":"keepalive"}\n'
END = b'{"type":"end_of_execution"}\n'

#: Characters that JSON leaves as they are and that clients take for the end of a line: U+0085, U+2028, U+2029.
_SEPARATORS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))

#: MIME types with a field of their own; the others travel in ``extra``.
FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


def line(event: Event) -> bytes:
    """The line for an event; empty for one that clients are not told about."""
    match event:
        case Started(count=count):
            return _encode({"type": "number_of_executions", "execution_count": count})
        case Text(stream=stream, text=text):
            return _encode({"type": stream, "text": text, "timestamp": time.time_ns()})
        case Shown(main=main, data=data):
            return _encode({"type": "result", **representations(data), "is_main_result": main})
        case Failed(name=name, value=value, traceback=traceback):
            return error(name, value, traceback)
    return b""


def error(name: str, value: str, traceback: str = "") -> bytes:
    """The line that reports a failure; an execution has at most one."""
    return _encode({"type": "error", "name": name, "value": value, "traceback": traceback})


def representations(bundle: dict[str, Any]) -> dict[str, Any]:
    """The fields of a result. Values of the wrong kind for their field are left out."""
    fields: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for mime, value in bundle.items():
        field = FIELDS.get(mime)
        if field is None:
            extra[mime] = value
        elif _fits(field, value):
            fields[field] = value
    if "text" in fields:
        fields["text"] = unquoted(fields["text"])
    if extra:
        fields["extra"] = extra
    return fields


def _fits(field: str, value: Any) -> bool:
    if field == "json":
        return value is not None
    return isinstance(value, dict if field in ("data", "chart") else str)


def unquoted(text: str) -> str:
    """Without the pair of quotes around the ``repr`` of a string."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def _encode(value: dict[str, Any]) -> bytes:
    encoded = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    for raw, escaped in _SEPARATORS:
        if raw in encoded:
            encoded = encoded.replace(raw, escaped)
    return encoded
