"""What a client identifies itself with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from starlette.datastructures import Headers


@dataclass(frozen=True, slots=True)
class Credential:
    """A key or token, as the client sent it."""

    value: str = field(repr=False)
    #: Whether it came as ``Authorization: Bearer``, which has priority, or as ``X-API-KEY``.
    bearer: bool

    @property
    def digest(self) -> str:
        """Names the caller without telling the credential."""
        return hashlib.sha256(self.value.encode("latin-1")).hexdigest()

    @property
    def header(self) -> tuple[bytes, bytes]:
        """The header that it came in."""
        value = self.value.encode("latin-1")
        return (b"Authorization", b"Bearer " + value) if self.bearer else (b"X-API-Key", value)


def credential(headers: Headers) -> Credential:
    """What the client sent; empty when it sent nothing."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return Credential(token.strip(), bearer=True)
    return Credential(headers.get("x-api-key", ""), bearer=False)


def caller(headers: Headers) -> str:
    """Tells callers apart: by what they identify themselves with, else by the address that the proxy has seen."""
    offered = credential(headers)
    return offered.digest if offered.value else headers.get("x-forwarded-for", "")
