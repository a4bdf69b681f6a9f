"""Rules for what a sandbox may say to the world over HTTP and HTTPS, and what is added to it on the way out.

A rule is ``{name?, match, action}``. The first rule whose match fits a request decides; no match means no. What is
here is the meaning of the rules: :func:`first_match` says what must come out, and the form that the gateway compiles
them into is tested against it.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

#: Stands in the place of a secret wherever one could be seen.
REDACTED = "***REDACTED***"
#: What is replaced by the secret in the format of an injection.
PLACEHOLDER = "${SECRET}"


class Audit(StrEnum):
    """How much of a request is written down."""

    NONE = "none"
    METADATA = "metadata"
    #: Bodies too, redacted.
    FULL = "full"


class Scheme(StrEnum):
    """Whether a request came through TLS."""

    HTTP = "http"
    HTTPS = "https"


@dataclass(frozen=True, slots=True)
class Injection:
    """A header that is set outside the sandbox. The sandbox's own header of this name is always removed."""

    header: str
    secret: str = field(repr=False)
    format: str = PLACEHOLDER

    @property
    def value(self) -> str:
        """What the header says upstream: the format with the secret in its first placeholder."""
        return self.format.replace(PLACEHOLDER, self.secret, 1)

    @property
    def missing(self) -> bool:
        """Whether its secret is one that there is not: requests that need it are refused."""
        return not self.secret

    @property
    def fingerprint(self) -> str:
        """Names the secret in logs without telling it."""
        return "fp-" + hashlib.sha256(self.secret.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Match:
    """What a request must be. Fields that are ``None`` or empty ask for nothing; all others must fit."""

    #: A name in lower case, or ``*.name``: everything below it, at any depth, but not itself.
    sni: str | None = None
    #: The same for the Host header without its port; an IPv4 address or network too.
    host: str | None = None
    #: In upper case; any of them.
    method: tuple[str, ...] = ()
    #: The whole path, or its beginning where it ends with ``*``.
    path: str | None = None
    scheme: Scheme | None = None
    #: Named behind the host: diverted to the gateway besides 80 and 443. It is not compared.
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """What becomes of a request that fits."""

    allow: bool
    audit: Audit = Audit.METADATA
    inject: tuple[Injection, ...] = ()


@dataclass(frozen=True, slots=True)
class EgressRule:
    """One rule; ``name`` may be empty."""

    action: Action
    match: Match = field(default_factory=Match)
    name: str = ""


#: Ports that the gateway looks into for every sandbox that has rules.
WEB_PORTS = (80, 443)


def diverted_ports(rules: Iterable[EgressRule]) -> tuple[int, ...]:
    """The TCP ports whose connections these rules decide about, in order."""
    return tuple(sorted({*WEB_PORTS, *(rule.match.port for rule in rules if rule.match.port is not None)}))


@dataclass(frozen=True, slots=True)
class EgressRequest:
    """A request as the rules see it."""

    scheme: Scheme
    method: str
    #: Normalised and without the query.
    path: str
    #: The Host header without its port.
    host: str | None = None
    #: The name of the TLS handshake.
    sni: str | None = None


def first_match(rules: Sequence[EgressRule], request: EgressRequest) -> EgressRule | None:
    """The rule that decides a request; ``None`` means that it is denied for want of one."""
    return next((rule for rule in rules if fits(rule.match, request)), None)


def fits(match: Match, request: EgressRequest) -> bool:
    """Whether a request is all that a match asks for."""
    return (
        _name_fits(match.sni, request.sni)
        and _host_fits(match.host, request.host)
        and (not match.method or request.method.upper() in match.method)
        and _path_fits(match.path, request.path)
        and match.scheme in (None, request.scheme)
    )


def _name_fits(pattern: str | None, name: str | None) -> bool:
    if pattern is None:
        return True
    return name is not None and name_matches(pattern, name)


def _host_fits(pattern: str | None, host: str | None) -> bool:
    if pattern is None or "/" not in pattern:
        return _name_fits(pattern, host)
    try:
        return ipaddress.IPv4Address(host or "") in ipaddress.IPv4Network(pattern)
    except ValueError:
        return False


def name_matches(pattern: str, name: str) -> bool:
    """Whether a name is the pattern, or lies below it where the pattern begins with ``*.``; the apex does not."""
    pattern, name = pattern.lower(), name.lower()
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return name == pattern


def _path_fits(pattern: str | None, path: str) -> bool:
    if pattern is None:
        return True
    if pattern.endswith("*"):
        return path.startswith(pattern[:-1])
    return path == pattern


@dataclass(frozen=True, slots=True)
class EgressStatus:
    """How the gateway is: ``ready`` says whether the policies that it was given are all in force."""

    ready: bool
    policies: int
    #: Addresses whose policy is not yet in force; requests from them are refused.
    pending: tuple[str, ...] = ()


class EgressGateway(Protocol):
    """Decides on HTTP and HTTPS of sandboxes that have rules; what it does not know it refuses."""

    async def put(self, address: str, policy_id: str, rules: Sequence[EgressRule]) -> None:
        """Set the rules of the sandbox at an IPv4 address, in place of those it had.

        Returns when they are in force. When that cannot be had soon, it returns too: the address is refused until
        they are, which happens without another call.
        """

    async def remove(self, address: str) -> None:
        """Forget the address: what comes from it is refused. Without a policy this does nothing."""

    def status(self) -> EgressStatus:
        """How it is now."""
