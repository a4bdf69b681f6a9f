"""What a client identifies itself with."""

from __future__ import annotations

import hashlib

from starlette.datastructures import Headers


def credential(headers: Headers) -> str:
    """The token of ``Authorization: Bearer``, which has priority, or ``X-API-KEY``; empty when there is neither."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def caller(headers: Headers) -> str:
    """Names who asks without telling the credential."""
    return hashlib.sha256(credential(headers).encode("latin-1")).hexdigest()
