"""Who may speak to a sandbox, and as which user inside it. Facts: E2B's envd and its clients.

The access token opens everything. A signed URL opens one file for one operation: the signature is
``v1_`` and the unpadded base64 of SHA-256 over ``path:operation:username:token[:expiration]``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping

from cube.envd.asgi import Scope, header
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import Unauthenticated

_NO_TOKEN = "unauthorized access, please provide a valid access token or method signing if supported"  # noqa: S105
_EXPIRATION_DIGITS = 18


def require_token(scope: Scope, sandbox: EnvdSandbox) -> None:
    """Raise ``Unauthenticated`` unless the request carries the sandbox's access token, or it has none."""
    if sandbox.access_token is not None and not _equal(header(scope, b"x-access-token"), sandbox.access_token):
        raise Unauthenticated(_NO_TOKEN)


def require_file_access(scope: Scope, sandbox: EnvdSandbox, query: Mapping[str, str], operation: str) -> None:
    """Raise ``Unauthenticated`` unless the token or a signature for ``operation`` ("read", "write") is there."""
    if sandbox.access_token is None:
        return
    if header(scope, b"x-access-token"):
        require_token(scope, sandbox)
        return
    given = query.get("signature", "")
    if not given:
        raise Unauthenticated("missing signature query parameter")
    if not signed_by(sandbox, query, operation):
        raise Unauthenticated("invalid signature")
    if _is_over(query.get("signature_expiration", "")):
        raise Unauthenticated("signature is already expired")


def signed_by(sandbox: EnvdSandbox, query: Mapping[str, str], operation: str) -> bool:
    """Whether the signature in a query was made with this sandbox's token; compares in constant time."""
    if sandbox.access_token is None:
        return False
    expected = signature(
        query.get("path", ""),
        operation,
        query.get("username", ""),
        sandbox.access_token,
        query.get("signature_expiration", ""),
    )
    return _equal(query.get("signature", ""), expected)


def signature(path: str, operation: str, username: str, token: str, expiration: str = "") -> str:
    """Signature of a file URL, version 1. ``expiration`` is in Unix seconds, empty when it never ends."""
    parts = [path, operation, username, token, *([expiration] if expiration else [])]
    digest = hashlib.sha256(":".join(parts).encode("utf-8", "surrogatepass")).digest()
    return "v1_" + base64.b64encode(digest).rstrip(b"=").decode()


def named_user(scope: Scope) -> str:
    """User of an RPC: the name in Basic authorization, empty when there is none.

    Raises ``Unauthenticated`` when the header cannot be read.
    """
    value = header(scope, b"authorization")
    if not value:
        return ""
    kind, _, credentials = value.partition(" ")
    if kind.lower() != "basic":
        raise Unauthenticated("the Authorization header must be of the Basic kind and name a user")
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Unauthenticated("the Authorization header is not base64 of user:password") from error


def _is_over(expiration: str) -> bool:
    if not expiration:
        return False
    if not expiration.isascii() or not expiration.isdigit() or len(expiration) > _EXPIRATION_DIGITS:
        raise Unauthenticated("invalid signature expiration")
    return int(expiration) < time.time()


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())
