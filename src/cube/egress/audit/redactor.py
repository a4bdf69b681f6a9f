"""Takes secrets out of what is written down: headers, queries, structured values and plain text.

A name that sounds like a credential hides its value. In free text the forms of well-known credentials are hidden, and
everywhere the very secrets that the sandbox's own rules inject, should a server echo them.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, urlencode

from cube.model.egress import REDACTED

#: A name that has one of these in it, written in small letters and digits alone, is one of a credential.
_TELLTALE = (
    *(
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "token",
        "apikey",
        "accesskey",
        "privatekey",
        "authorization",
    ),
    *("credential", "cookie", "session", "signature", "bearer", "xapi", "clientassertion"),
)
_EXACT = frozenset(("auth", "key", "sig", "otp", "pin", "pass", "cvv", "cvc", "jwt", "code", "pw"))
#: Headers whose values are harmless. Values of all others are hidden: what is not known may be a credential.
_TELLABLE = frozenset(
    (
        *("accept", "accept-charset", "accept-encoding", "accept-language", "accept-ranges", "age", "allow"),
        *("cache-control", "connection", "content-disposition", "content-encoding", "content-language"),
        *("content-length", "content-range", "content-type", "date", "expect", "expires", "grpc-accept-encoding"),
        *("grpc-encoding", "grpc-status", "grpc-timeout", "host", "if-modified-since", "if-unmodified-since"),
        *("keep-alive", "last-modified", "max-forwards", "pragma", "range", "retry-after", "server", "te", "trailer"),
        *("transfer-encoding", "upgrade", "user-agent", "vary", "sec-websocket-version"),
    )
)
_MOST_HEADERS, _LONGEST_VALUE = 100, 1024
_SHORTEST_SECRET = 4

_CREDENTIALS = re.compile(
    r"(?i:\b(bearer|basic|digest|token)\s+)[A-Za-z0-9._~+/=\-]{6,}"
    r"|\beyJ[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]*)?"
    r"|\b(?:sk|pk|rk)[-_][A-Za-z0-9_\-]{8,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_\-]{16,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bxox[abeprs]-[A-Za-z0-9\-]{8,}|\bAIza[A-Za-z0-9_\-]{20,}|\be2b_[0-9a-f]{16,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
_USER_IN_URL = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
_ASSIGNMENT = re.compile(r"([A-Za-z0-9_.\-]{2,64})(\s*[=:]\s*)(\"[^\"]*\"?|'[^']*'?|[^\s&;,\"']+)")


def sounds_secret(name: str) -> bool:
    """Whether a field of this name holds a credential."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return plain in _EXACT or any(word in plain for word in _TELLTALE)


class Redactor:
    """Redacts for one sandbox; ``secrets`` are those that its rules inject."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _forms(secret)}
        # Longer ones first: a form may be the beginning of another.
        ordered = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        #: Values of harmless headers are few, and the same in every request of a program.
        self._scrubbed = functools.lru_cache(maxsize=256)(self.scrub)

    def known(self, text: str) -> str:
        """Without the sandbox's own secrets, in any of the forms that they may be echoed in."""
        return self._known.sub(REDACTED, text) if self._known else text

    def scrub(self, text: str) -> str:
        """Free text without what looks like a credential."""
        text = _CREDENTIALS.sub(_keep_scheme, self.known(text))
        text = _USER_IN_URL.sub(REDACTED, text)
        return _ASSIGNMENT.sub(_hide_assigned, text)

    def header(self, value: object) -> str:
        """The value of a harmless header."""
        text = str(value)[:_LONGEST_VALUE]
        return self._scrubbed(text)

    def headers(self, table: Mapping[str, Any]) -> dict[str, str]:
        """A table of headers, in which unknown ones keep their name alone."""
        return {
            name: self.header(value) if name.lower() in _TELLABLE else REDACTED
            for name, value in list(table.items())[:_MOST_HEADERS]
            if value is not None
        }

    def target(self, target: str) -> str:
        """A request target: every value of its query is hidden, names and path stay."""
        path, mark, query = target.partition("?")
        hidden = re.sub(r"=[^&;]*", f"={REDACTED}", query)
        # Without a sign of equality the whole may be the value.
        hidden = hidden if not query or "=" in query else REDACTED
        return self.known(_CREDENTIALS.sub(_keep_scheme, path)) + mark + self.known(hidden)

    def value(self, value: Any, name: str = "") -> Any:
        """A value of JSON, redacted by the names in it and by its texts."""
        if name and sounds_secret(name) and value not in (None, "", [], {}) and not isinstance(value, bool):
            return REDACTED
        if isinstance(value, dict):
            return {self.known(key): self.value(member, key) for key, member in value.items()}
        if isinstance(value, list):
            return [self.value(member) for member in value]
        return self._text(value) if isinstance(value, str) else value

    def form(self, text: str) -> str:
        """A URL-encoded form."""
        fields = parse_qsl(text, keep_blank_values=True)
        return urlencode([(name, self.value(value, name)) for name, value in fields], safe="*")

    def _text(self, text: str) -> str:
        """JSON in a text is looked into as well."""
        if text[:1] in "{[" and text[:1]:
            try:
                return json.dumps(self.value(json.loads(text)))
            except (ValueError, RecursionError):
                pass
        return self.scrub(text)


def _forms(secret: str) -> Iterable[str]:
    """How a secret may look when it comes back."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield quote(secret)
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield base64.b64encode(secret.encode()).decode().rstrip("=")
    yield base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")
    yield secret.encode().hex()


def _keep_scheme(found: re.Match[str]) -> str:
    return f"{found.group(1)} {REDACTED}" if found.group(1) else REDACTED


def _hide_assigned(found: re.Match[str]) -> str:
    name, sign, _ = found.groups()
    return f"{name}{sign}{REDACTED}" if sounds_secret(name) else found.group(0)
