"""Egress rules as JSON speaks them: read with every field checked, written with or without their secrets.

What is not understood is refused, never passed over: a misspelt field in a match would make the rule fit more.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from cube.model.egress import PLACEHOLDER, REDACTED, Action, Audit, EgressRule, Injection, Match, Scheme
from cube.model.errors import InvalidInput

#: Rules of one sandbox.
MOST_RULES = 256
#: Headers that one rule adds.
MOST_INJECTIONS = 8
#: Longest secret, in bytes.
LONGEST_SECRET = 65_536
_LONGEST_NAME = 128
_LONGEST_PATH = 2048
_LONGEST_FORMAT = 4096
_MOST_METHODS = 32

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_LONGEST_DOMAIN = 253
_PORT = re.compile(r":([0-9]{1,5})$")
#: What the characters of a path may be once it is normalised.
_PATH = re.compile(r"/[!-~]*")
#: They say how a message is framed or where it goes: whoever sets them changes more than a credential.
_RESERVED_HEADERS = frozenset(
    ("connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer")
) | {"transfer-encoding", "upgrade"}
_RESERVED_PREFIXES = ("x-cube-", "x-envoy-")

_T = TypeVar("_T")


def parse_rules(wire: object, *, field: str = "rules") -> tuple[EgressRule, ...]:
    """The rules of a JSON list. Raises ``InvalidInput`` whose ``field`` is the path to the culprit."""
    entries = _list(wire, field, MOST_RULES)
    return tuple(parse_rule(entry, field=f"{field}[{number}]") for number, entry in enumerate(entries))


def parse_rule(wire: object, *, field: str = "rule") -> EgressRule:
    """One rule of its JSON object. Raises ``InvalidInput`` whose ``field`` is the path to the culprit."""
    rule = _object(wire, field, {"name", "match", "action"})
    if "match" not in rule or "action" not in rule:
        raise InvalidInput(f"{field} needs `match` and `action`", field=field)
    name = _optional(rule, "name", field, _name)
    return EgressRule(_action(rule["action"], f"{field}.action"), _match(rule["match"], f"{field}.match"), name or "")


def to_wire(rule: EgressRule, *, secrets: bool = False) -> dict[str, Any]:
    """The rule as a JSON object. Its secrets are masked, unless they are asked for."""
    action: dict[str, Any] = {"allow": rule.action.allow, "audit": rule.action.audit.value}
    if rule.action.inject:
        action["inject"] = [_injection_to_wire(one, secrets) for one in rule.action.inject]
    name = {"name": rule.name} if rule.name else {}
    return {**name, "match": _match_to_wire(rule.match), "action": action}


def _match(wire: object, field: str) -> Match:
    match = _object(wire, field, {"sni", "host", "method", "path", "scheme"})
    return Match(
        sni=_optional(match, "sni", field, parse_domain),
        host=_optional(match, "host", field, _host),
        port=_optional(match, "host", field, _port),
        method=_optional(match, "method", field, _methods) or (),
        path=_optional(match, "path", field, _path),
        scheme=_optional(match, "scheme", field, _scheme),
    )


def _action(wire: object, field: str) -> Action:
    action = _object(wire, field, {"allow", "audit", "inject"})
    allow = action.get("allow")
    if not isinstance(allow, bool):
        raise InvalidInput(f"{field}.allow must be true or false", field=f"{field}.allow")
    audit = _optional(action, "audit", field, _audit) or Audit.METADATA
    return Action(allow, audit, _optional(action, "inject", field, _injections) or ())


def _injections(wire: object, field: str) -> tuple[Injection, ...]:
    entries = _list(wire, field, MOST_INJECTIONS)
    found = tuple(_injection(entry, f"{field}[{number}]") for number, entry in enumerate(entries))
    names = [one.header.lower() for one in found]
    for number, name in enumerate(names):
        if name in names[:number]:
            place = f"{field}[{number}].header"
            raise InvalidInput(f"{place}: {name} is set twice", field=place)
    return found


def _injection(wire: object, field: str) -> Injection:
    entry = _object(wire, field, {"header", "secret", "format"})
    header = _required(entry, "header", field, parse_header_name)
    secret = _required(entry, "secret", field, _secret)
    return Injection(header, secret, _optional(entry, "format", field, _format) or PLACEHOLDER)


def parse_domain(wire: object, field: str) -> str:
    """A domain name or ``*.name``, in lower case and without a final dot. Raises ``InvalidInput``."""
    name = _text(wire, field, _LONGEST_DOMAIN + 2).lower().removesuffix(".")
    if name == "*":
        raise InvalidInput(
            f"{field}: leave it out to mean every name; `*` stands only in front, as in *.a.com", field=field
        )
    if not _DOMAIN.fullmatch(name) or len(name) > _LONGEST_DOMAIN:
        raise InvalidInput(f"{field} must be a domain name in ASCII, or one behind `*.`", field=field)
    return name


def _host(wire: object, field: str) -> str:
    host = _PORT.sub("", _text(wire, field, _LONGEST_DOMAIN + 8))
    if not re.fullmatch(r"[0-9./]+", host):
        return parse_domain(host, field)
    try:
        network = ipaddress.IPv4Network(host)
    except ValueError as error:
        raise InvalidInput(f"{field} is no IPv4 address or network: {error}", field=field) from None
    return str(network) if "/" in host else str(network.network_address)


def _port(wire: object, field: str) -> int | None:
    found = _PORT.search(_text(wire, field, _LONGEST_DOMAIN + 8))
    port = int(found.group(1)) if found else None
    if port is not None and not 0 < port < 65536:
        raise InvalidInput(f"{field} must name a port from 1 to 65535", field=field)
    return port


def _methods(wire: object, field: str) -> tuple[str, ...]:
    entries = _list(wire, field, _MOST_METHODS)
    if not entries:
        raise InvalidInput(f"{field}: leave it out to mean every method", field=field)
    return tuple(_method(entry, f"{field}[{number}]") for number, entry in enumerate(entries))


def _method(wire: object, field: str) -> str:
    method = _text(wire, field, _LONGEST_NAME)
    if not _TOKEN.fullmatch(method):
        raise InvalidInput(f"{field} must be an HTTP method", field=field)
    return method.upper()


def _path(wire: object, field: str) -> str:
    path = _text(wire, field, _LONGEST_PATH)
    if path == "*":
        return path
    if not _PATH.fullmatch(path):
        raise InvalidInput(f"{field} must begin with `/` and be of printable ASCII characters", field=field)
    if "?" in path or "#" in path:
        raise InvalidInput(f"{field} is compared without the query: leave out what begins with `?` or `#`", field=field)
    if "//" in path or any(part in (".", "..") for part in path.removesuffix("*").split("/")):
        raise InvalidInput(
            f"{field} must be without `.`, `..` and doubled slashes, as paths are when compared", field=field
        )
    return path


def _scheme(wire: object, field: str) -> Scheme:
    try:
        return Scheme(_text(wire, field, _LONGEST_NAME).lower())
    except ValueError:
        raise InvalidInput(f"{field} must be `http` or `https`", field=field) from None


def _audit(wire: object, field: str) -> Audit:
    try:
        return Audit(_text(wire, field, _LONGEST_NAME))
    except ValueError:
        raise InvalidInput(f"{field} must be `none`, `metadata` or `full`", field=field) from None


def parse_header_name(wire: object, field: str) -> str:
    """The name of a header that may be set for a sandbox. Raises ``InvalidInput``."""
    name = _text(wire, field, _LONGEST_NAME)
    if not _TOKEN.fullmatch(name):
        raise InvalidInput(f"{field} must be the name of an HTTP header", field=field)
    if name.lower() in _RESERVED_HEADERS or name.lower().startswith(_RESERVED_PREFIXES):
        raise InvalidInput(f"{field}: {name} cannot be set, the gateway needs it itself", field=field)
    return name


def parse_header_value(wire: object, field: str, *, longest: int = LONGEST_SECRET) -> str:
    """What a header may say. Raises ``InvalidInput``, without the value in the message."""
    value = _text(wire, field, longest)
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in value):
        raise InvalidInput(f"{field} must be one line without control characters", field=field)
    if value != value.strip(" "):
        raise InvalidInput(f"{field} must not begin or end with a space", field=field)
    return value


def _secret(wire: object, field: str) -> str:
    return parse_header_value(wire, field)


def _format(wire: object, field: str) -> str:
    return parse_header_value(wire, field, longest=_LONGEST_FORMAT)


def _name(wire: object, field: str) -> str:
    name = _text(wire, field, _LONGEST_NAME)
    if not name.isprintable():
        raise InvalidInput(f"{field} must be of printable characters", field=field)
    return name


def _object(wire: object, field: str, known: Collection[str]) -> Mapping[str, object]:
    if not isinstance(wire, dict):
        raise InvalidInput(f"{field} must be an object", field=field)
    for key in wire:
        if key not in known:
            place = f"{field}.{str(key)[:_LONGEST_NAME]}"
            raise InvalidInput(f"{place} is not known; {field} has {', '.join(sorted(known))}", field=place)
    return wire


def _list(wire: object, field: str, most: int) -> list[object]:
    if not isinstance(wire, list):
        raise InvalidInput(f"{field} must be a list", field=field)
    if len(wire) > most:
        raise InvalidInput(f"{field} exceeds maximum entries: got {len(wire)}, max {most}", field=field)
    return wire


def _text(wire: object, field: str, longest: int) -> str:
    if not isinstance(wire, str) or not wire:
        raise InvalidInput(f"{field} must be a text that is not empty", field=field)
    try:
        size = len(wire.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"{field} must be Unicode text", field=field) from None
    if size > longest:
        raise InvalidInput(f"{field} must not be longer than {longest} bytes", field=field)
    return wire


def _optional(wire: Mapping[str, object], key: str, field: str, parse: Callable[[object, str], _T]) -> _T | None:
    value = wire.get(key)
    return None if value is None else parse(value, f"{field}.{key}")


def _required(wire: Mapping[str, object], key: str, field: str, parse: Callable[[object, str], _T]) -> _T:
    return parse(wire.get(key), f"{field}.{key}")


def _match_to_wire(match: Match) -> dict[str, Any]:
    port = f":{match.port}" if match.port else ""
    fields: dict[str, Any] = {
        "sni": match.sni,
        "host": match.host and match.host + port,
        "method": list(match.method),
        "path": match.path,
        "scheme": match.scheme.value if match.scheme else None,
    }
    return {key: value for key, value in fields.items() if value}


def _injection_to_wire(injection: Injection, secrets: bool) -> dict[str, str]:
    # A format without a placeholder is the value itself, and as secret as any.
    shown = secrets or PLACEHOLDER in injection.format
    return {
        "header": injection.header,
        "secret": injection.secret if secrets else REDACTED,
        "format": injection.format if shown else REDACTED,
    }
