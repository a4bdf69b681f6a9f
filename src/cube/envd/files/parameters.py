"""Parameters of header values: ``form-data; name="file"; filename="/home/user/a b"``."""

from __future__ import annotations

import re
from urllib.parse import unquote

from cube.model.errors import InvalidInput

# Inside quotes a backslash escapes only a quote or a backslash: clients send Windows paths unescaped.
_PARAMETER = re.compile(r'\s*;\s*([^\s;="]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\])')


def header_parameters(value: str) -> tuple[str, dict[str, str]]:
    """Split a header value into its kind, in lower case, and its parameters; of two with one name the first counts.

    ``name*=UTF-8''percent-encoded`` (RFC 8187) takes the place of ``name``. Raises ``InvalidInput``.
    """
    kind, separator, _ = value.partition(";")
    rest = value[len(kind) :] if separator else ""
    parameters: dict[str, str] = {}
    position = 0
    while rest[position:].strip(" \t;"):
        if (match := _PARAMETER.match(rest, position)) is None:
            raise InvalidInput(f"the parameters of the header value {value[:100]!r} cannot be read")
        name, quoted, plain = match.groups()
        parameters.setdefault(name.lower(), plain if quoted is None else _ESCAPED.sub(r"\1", quoted))
        position = match.end()
    return kind.strip().lower(), _with_extended(parameters)


def _with_extended(parameters: dict[str, str]) -> dict[str, str]:
    for name in [name for name in parameters if name.endswith("*")]:
        charset, _, rest = parameters.pop(name).partition("'")
        if charset.lower() == "utf-8":
            parameters[name[:-1]] = _unquoted(rest.partition("'")[2])
    return parameters


def _unquoted(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidInput("a percent-encoded header parameter is not UTF-8") from error
