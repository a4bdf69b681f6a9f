"""Names and ports of rules as regular expressions over what a request says about where it goes.

That is one text, ``<port dialled> <name of the handshake> <authority>``: see ``WHERE_HEADER``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cube.model.egress import Match, Scheme, name_matches

_DEFAULT_PORT = {Scheme.HTTP: 80, Scheme.HTTPS: 443}
_ANY_NAME = "[^ :]+"
_NO_NAME = "-?"


@dataclass(frozen=True, slots=True)
class Where:
    """A pattern; ``exact`` when it fits nothing but requests that say one name and one port throughout."""

    regex: str
    exact: bool


def where_pattern(match: Match, scheme: Scheme, ports: Iterable[int]) -> Where | None:
    """Where requests of a scheme that fit a match may go; ``None`` when there is no such request."""
    if match.scheme not in (None, scheme):
        return None
    if scheme is Scheme.HTTP:
        if match.sni is not None:
            return None
        return _pattern(_NO_NAME, match.host, scheme, ports)
    both = {pattern for pattern in (match.sni, match.host) if pattern is not None}
    exact = [pattern for pattern in both if _is_exact(pattern)]
    if not exact:
        return Where(f"(?i)[0-9]+ {_name(match.sni)} {_name(match.host)}{_ANY_PORT}", exact=False)
    # Both patterns stand for one name, which they must both fit.
    if not all(_fits(pattern, exact[0]) for pattern in both):
        return None
    return _pattern(_name(exact[0]), exact[0], scheme, ports)


_ANY_PORT = r"\.?(?::[0-9]+)?"


def _pattern(sni: str, host: str | None, scheme: Scheme, ports: Iterable[int]) -> Where:
    if host is None or not _is_exact(host):
        return Where(f"(?i)[0-9]+ {sni} {_name(host)}{_ANY_PORT}", exact=False)
    default = _DEFAULT_PORT[scheme]
    ends = (rf"{port} {sni} {_name(host)}" + (f"(?::{port})?" if port == default else f":{port}") for port in ports)
    return Where(f"(?i)(?:{'|'.join(ends)})", exact=True)


def _is_exact(pattern: str) -> bool:
    return not pattern.startswith("*.") and "/" not in pattern


def _fits(pattern: str, name: str) -> bool:
    return (
        name_matches(pattern, name) if "/" not in pattern else re.fullmatch(network_pattern(pattern), name) is not None
    )


def _name(pattern: str | None) -> str:
    if pattern is None:
        return _ANY_NAME
    if pattern.startswith("*."):
        # Something must be in front of the dot.
        return _ANY_NAME + re.escape(pattern[1:])
    return network_pattern(pattern) if "/" in pattern else re.escape(pattern)


def network_pattern(network: str) -> str:
    """A regular expression for the addresses of an IPv4 network in their usual form."""
    parsed = ipaddress.IPv4Network(network)
    octets = zip(parsed.network_address.packed, parsed.netmask.packed, strict=True)
    return r"\.".join(_octet(value, mask) for value, mask in octets)


def _octet(value: int, mask: int) -> str:
    if mask == 0xFF:
        return str(value)
    if mask == 0:
        return "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    return "(?:" + "|".join(str(number) for number in range(256) if number & mask == value) + ")"
