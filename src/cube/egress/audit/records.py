"""From what Envoy noted to records of the audit log; docs/egress.md says what is in them."""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cube.egress.audit.bodies import Body, told
from cube.egress.audit.redactor import Redactor
from cube.egress.envoy.replies import NO_POLICY, UPSTREAM
from cube.model.egress import Audit

Record = dict[str, Any]
#: The secrets of the sandbox at an address; ``None`` when they are not known any more.
SecretsOf = Callable[[str], Sequence[str] | None]

_VIA_UPSTREAM = "via_upstream"
_GATEWAY_ERRORS = (502, 504)


def records(raw: Mapping[str, Any], secrets_of: SecretsOf) -> list[Record]:
    """The records of one line: one for the request unless its rule wants none, and one more for a security event.

    Bodies are told only where it is known which secrets must not be in them.
    """
    secrets = secrets_of(str(raw.get("source") or ""))
    redactor = _redactor(tuple(secrets or ()))
    if raw["event"] == "tls_handshake":
        return [_handshake(raw)]
    if raw["event"] != "http_request":
        raise ValueError("this is no line of ours")
    audit = str(raw.get("route") or "").partition("/")[0]
    record = _request(raw, redactor, full=audit == Audit.FULL and secrets is not None)
    found = [] if audit == Audit.NONE else [record]
    if record["security"] is not None:
        found.append({**record, "event": "security_event"})
    return found


@functools.lru_cache(maxsize=256)
def _redactor(secrets: tuple[str, ...]) -> Redactor:
    """Making one costs more than all that it does for a line."""
    return Redactor(secrets)


def _handshake(raw: Mapping[str, Any]) -> Record:
    return {
        **_connection(raw),
        "request_id": f"tls-{raw.get('connection')}",
        "http": None,
        "policy": {"matched_rule": None, "decision": "deny", "duration_us": None},
        "credentials": None,
        "security": {
            "reason": f"handshake_failed: {raw.get('failure')}",
            "inject_dropped": None,
            "inject_skipped": None,
        },
    }


def _connection(raw: Mapping[str, Any]) -> Record:
    return {
        "ts": _time(raw.get("at")),
        "request_id": f"{raw.get('connection')}-{raw.get('at')}",
        "event": raw["event"],
        "sandbox": {"src_ip": raw.get("source"), "policy_id": _of(raw, "policy").get("policy_id")},
        "conn": {"original_dst_ip": raw.get("dialled"), "original_dst_port": raw.get("port")},
        "tls": _tls(raw),
    }


def _tls(raw: Mapping[str, Any]) -> Record | None:
    if raw.get("sni") is None and raw.get("tls") is None:
        return None
    return {
        "sni": raw.get("sni"),
        "cipher": raw.get("cipher"),
        "version": raw.get("tls"),
        "client_alpn": raw.get("protocol"),
        # There is no connection to a server whose certificate was not verified.
        "upstream_verified": raw.get("upstream_tls") is not None,
        "upstream_cert_subject": raw.get("upstream_subject"),
        "upstream_cert_issuer": raw.get("upstream_issuer"),
    }


def _request(raw: Mapping[str, Any], redactor: Redactor, *, full: bool) -> Record:
    policy, notes = _of(raw, "policy"), _of(raw, "notes")
    headers = _of(notes, "request_headers") or _of(raw, "headers")
    reason = _reason(raw, policy, notes)
    refused = raw.get("details") != _VIA_UPSTREAM and reason is not None and reason != UPSTREAM
    record = {
        **_connection(raw),
        "http": {
            "scheme": raw.get("scheme"),
            "method": raw.get("method"),
            "host": redactor.known(str(raw.get("sni") or raw.get("host") or raw.get("dialled"))),
            "path": redactor.target(str(raw.get("path") or "")),
            "status": raw.get("status"),
            "req_bytes": raw.get("received"),
            "resp_bytes": raw.get("sent"),
            "duration_ms": raw.get("milliseconds"),
            "user_agent": _scrubbed(_of(raw, "headers").get("user-agent"), redactor),
        },
        "policy": {
            "matched_rule": policy.get("rule"),
            "decision": "deny" if refused else policy.get("decision") or "unknown",
            "duration_us": None,
        },
        "credentials": None if refused else policy.get("credentials"),
        "security": {"reason": reason, "inject_dropped": None, "inject_skipped": None} if reason else None,
        "upstream": {"address": raw.get("upstream"), "failure": raw.get("upstream_failure")},
        "redacted_request_headers": redactor.headers(headers),
        "redacted_request_body": None,
        "redacted_response_body": None,
    }
    if full:
        record["redacted_response_headers"] = redactor.headers(_of(notes, "response_headers"))
        record["redacted_request_body"] = _body(notes, "request", redactor)
        record["redacted_response_body"] = _body(notes, "response", redactor)
    return record


def _reason(raw: Mapping[str, Any], policy: Mapping[str, Any], notes: Mapping[str, Any]) -> str | None:
    """Why this is a security event, if it is one."""
    if raw.get("details") == _VIA_UPSTREAM:
        return None
    if noted := notes.get("reason") or policy.get("reason"):
        return str(noted)
    if raw.get("details") == "route_not_found":
        return NO_POLICY
    if raw.get("status") in _GATEWAY_ERRORS:
        return UPSTREAM
    return "unspecified" if (raw.get("status") or 0) >= 400 else None


def _body(notes: Mapping[str, Any], side: str, redactor: Redactor) -> str | None:
    headers = {name.lower(): str(value) for name, value in _of(notes, f"{side}_headers").items()}
    try:
        data = base64.b64decode(str(notes.get(f"{side}_body") or ""))
    except (binascii.Error, ValueError):
        return None
    kind, encoding = headers.get("content-type", ""), headers.get("content-encoding", "")
    return told(Body(data, kind, encoding, cut=bool(notes.get(f"{side}_body_cut"))), redactor)


def _of(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def _scrubbed(value: object, redactor: Redactor) -> str | None:
    return None if value is None else redactor.header(str(value)[:256])


def _time(nanoseconds: object) -> str | None:
    try:
        seconds = int(str(nanoseconds)) / 1e9
    except ValueError:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
