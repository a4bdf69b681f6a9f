"""From rules to what Envoy carries out: one scope per sandbox, whose routes stand in the order of the rules.

Envoy takes the first route that fits, as :func:`cube.model.egress.first_match` takes the first rule. A scope is chosen
by the true source address of the connection, so a change of one sandbox's rules touches nothing of another's.

Name and port of a request are told three times: by the connection, by its handshake and by the Host header. A rule for
one name is matched against all of them at once, so that there is nothing left to compare. Where that cannot be done the
gate (``gate.lua``) compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cube.egress.envoy.replies import AMBIGUOUS, DENIED, MISSING, NO_RULE, refusal
from cube.egress.envoy.vocabulary import (
    ADS,
    CAPTURE,
    CLUSTER_HEADER,
    GATE,
    INJECT,
    OURS,
    SOURCE_HEADER,
    WHERE_HEADER,
    struct,
)
from cube.egress.patterns import where_pattern
from cube.model.egress import Audit, EgressRule, Injection, Match, Scheme, diverted_ports
from cube.proxy.vocabulary import Json, extension, typed

_INJECTOR = "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector"
_GENERIC = "envoy.extensions.http.injected_credentials.generic.v3.Generic"
_CHAIN = "envoy.extensions.filters.http.filter_chain.v3.FilterChainConfigPerRoute"
_ROUTE_FILTER = "envoy.config.route.v3.FilterConfig"
#: What was added for routing, and what Envoy would tell the world about the sandbox.
_REMOVED = (
    *(SOURCE_HEADER, CLUSTER_HEADER, WHERE_HEADER),
    *("x-envoy-external-address", "x-envoy-internal", "x-envoy-expected-rq-timeout-ms", "x-forwarded-proto"),
)


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one sandbox."""

    address: str
    policy_id: str
    rules: tuple[EgressRule, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """A name for each rule that no other has: its own where that is free, else with its number."""
        return tuple(_unique_names(self.rules))


def _unique_names(rules: Sequence[EgressRule]) -> Iterator[str]:
    taken: set[str] = set()
    for number, rule in enumerate(rules):
        name = rule.name or f"rule-{number}"
        while name in taken:
            name = f"{name}#{number}"
        taken.add(name)
        yield name


def scope(policy: Policy) -> Json:
    """The ``ScopedRouteConfiguration`` of a policy."""
    return {
        "name": policy.address,
        "key": {"fragments": [{"string_key": policy.address}]},
        "route_configuration": {
            "name": policy.address,
            "request_headers_to_remove": list(_REMOVED),
            "virtual_hosts": [{"name": policy.address, "domains": ["*"], "routes": list(_routes(policy))}],
        },
    }


def secrets(policy: Policy) -> dict[str, str]:
    """The values that the policy injects, by the name under which Envoy asks for each."""
    return {
        secret_name(policy, number, injection): injection.value
        for number, rule in enumerate(policy.rules)
        if rule.action.allow and rule.match.scheme is not Scheme.HTTP
        for injection in rule.action.inject
        if not injection.missing
    }


def secret_name(policy: Policy, rule: int, injection: Injection) -> str:
    """Changes with the rule's place, not with the value: a new value replaces the old one."""
    return f"inject/{policy.address}/{rule}/{injection.header.lower()}"


def _routes(policy: Policy) -> Iterator[Json]:
    yield _ambiguous(policy)
    ports = diverted_ports(policy.rules)
    for number, (name, rule) in enumerate(zip(policy.ids, policy.rules, strict=True)):
        for scheme in Scheme:
            where = where_pattern(rule.match, scheme, ports)
            if where is not None:
                match = _match(rule.match, scheme, where.regex)
                yield _route(policy, number, name, scheme, match, gated=not where.exact)
    yield {
        "name": f"{Audit.METADATA}/",
        "match": {"prefix": "/"},
        "typed_per_filter_config": {GATE: _enabled()},
        **_denial(NO_RULE, "No egress rule of this sandbox fits the request", policy_id=policy.policy_id),
    }


def _route(policy: Policy, number: int, name: str, scheme: Scheme, match: Json, *, gated: bool) -> Json:
    rule = policy.rules[number]
    route: Json = {"name": f"{rule.action.audit}/{name}", "match": match}
    filters: Json = {GATE: _enabled()} if gated else {}
    known: Json = {"policy_id": policy.policy_id, "rule": name}
    if not rule.action.allow:
        denial = _denial(DENIED, "An egress rule of this sandbox denies the request", **known)
        return {**route, "typed_per_filter_config": filters, **denial}
    injections = rule.action.inject if scheme is Scheme.HTTPS else ()
    if any(one.missing for one in injections):
        denial = _denial(MISSING, "A secret that this rule injects does not exist, or no header can hold it", **known)
        return {**route, "typed_per_filter_config": filters, **denial}
    if rule.action.audit is Audit.FULL:
        filters[CAPTURE] = _enabled()
    if injections:
        injectors = [_injector(policy, number, one) for one in injections]
        filters[INJECT] = struct(_CHAIN, filter_chain={"filters": injectors})
        known["credentials"] = {
            "injected": [one.header for one in injections],
            "secret_ids": [one.fingerprint for one in injections],
        }
    return {
        **route,
        "route": {"cluster_header": CLUSTER_HEADER, "timeout": "0s"},
        "metadata": _metadata(**known, decision="allow"),
        # Where it is injected the injector replaces the sandbox's own.
        "request_headers_to_remove": [] if injections else [one.header for one in rule.action.inject],
        "typed_per_filter_config": filters,
    }


def _ambiguous(policy: Policy) -> Json:
    """Some servers take ``..;`` for ``..``: they would read another path than the rules do."""
    message = "The path has a segment of dots with a semicolon, which servers read in different ways"
    return {
        "name": f"{Audit.METADATA}/",
        "match": {"safe_regex": {"regex": r".*/\.{1,2};.*"}},
        **_denial(AMBIGUOUS, message, policy_id=policy.policy_id),
    }


def _denial(reason: str, message: str, **known: Any) -> Json:
    header = {"header": {"key": "content-type", "value": "application/json"}}
    return {
        "direct_response": {"status": 403, "body": {"inline_string": json.dumps(refusal(403, reason, message))}},
        "metadata": _metadata(**known, decision="deny", reason=reason),
        "response_headers_to_add": [{**header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }


def _metadata(**fields: Any) -> Json:
    return {"filter_metadata": {OURS: fields}}


def _enabled() -> Json:
    return typed(_ROUTE_FILTER, config={})


def _injector(policy: Policy, number: int, injection: Injection) -> Json:
    secret = {"name": secret_name(policy, number, injection), "sds_config": ADS}
    generic = extension("envoy.http.injected_credentials.generic", _GENERIC, credential=secret, header=injection.header)
    name = f"{INJECT}/{injection.header.lower()}"
    return extension(name, _INJECTOR, overwrite=True, allow_request_without_credential=False, credential=generic)


def _match(match: Match, scheme: Scheme, where: str) -> Json:
    headers = [_header(":scheme", exact=scheme.value), _header(WHERE_HEADER, safe_regex={"regex": where})]
    if match.method:
        methods = "|".join(re.escape(method) for method in match.method)
        headers.append(_header(":method", safe_regex={"regex": f"(?i)(?:{methods})"}))
    return {**_path(match.path), "headers": headers}


def _header(name: str, **string_match: Any) -> Json:
    return {"name": name, "string_match": string_match}


def _path(path: str | None) -> Json:
    if path is None or path == "*":
        return {"prefix": "/"}
    if path.endswith("*"):
        return {"prefix": path[:-1]}
    return {"path": path}
