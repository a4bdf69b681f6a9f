"""Egress rules as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.model.egress import Action, Audit, EgressRule, Injection, Match, Scheme, diverted_ports
from cube.model.egress_wire import MOST_RULES, parse_rule, parse_rules, to_wire
from cube.model.errors import InvalidInput
from support.egress_cases import LLM

INJECT = {"header": "X-Key", "secret": "S3CR3T"}


def rule(match: Any = None, inject: Any = None, **action: Any) -> dict[str, Any]:
    inject = {} if inject is None else {"inject": inject}
    return {"match": match or {}, "action": {"allow": True, **inject, **action}}


def test_a_rule_is_read_whole() -> None:
    assert parse_rule(LLM) == EgressRule(
        name="llm",
        match=Match("api.a.test", "api.a.test", ("POST",), "/v1/*", Scheme.HTTPS),
        action=Action(True, Audit.METADATA, (Injection("Authorization", "k-123", "Bearer ${SECRET}"),)),
    )


def test_what_is_null_is_left_out() -> None:
    match = dict.fromkeys(("sni", "host", "method", "path", "scheme"))

    assert parse_rule({"name": None, **rule(match, audit=None)}) == EgressRule(Action(allow=True))


@pytest.mark.parametrize(
    ("wire", "field"),
    [
        ([], "rule"),
        ({"action": {"allow": True}}, "rule"),
        ({"match": {}}, "rule"),
        ({"match": [], "action": {"allow": True}}, "rule.match"),
        ({"match": {}, "action": {}}, "rule.action.allow"),
        ({"match": {}, "action": {"allow": "yes"}}, "rule.action.allow"),
        ({"match": {}, "action": {"allow": 1}}, "rule.action.allow"),
        ({"match": {}, "action": {"allow": True}, "mach": {}}, "rule.mach"),
        ({**rule(), "name": 7}, "rule.name"),
        ({**rule(), "name": "a\nb"}, "rule.name"),
        (rule({"hots": "a.test"}), "rule.match.hots"),
        (rule({"host": 7}), "rule.match.host"),
        (rule({"host": ""}), "rule.match.host"),
        (rule({"host": "*"}), "rule.match.host"),
        (rule({"host": "a.*.test"}), "rule.match.host"),
        (rule({"host": "*a.test"}), "rule.match.host"),
        (rule({"host": "a..test"}), "rule.match.host"),
        (rule({"host": "a.test/path"}), "rule.match.host"),
        (rule({"host": "http://a.test"}), "rule.match.host"),
        (rule({"host": "bücher.test"}), "rule.match.host"),
        (rule({"host": "a" * 300}), "rule.match.host"),
        (rule({"host": "203.0.113.300"}), "rule.match.host"),
        (rule({"host": "203.0.113.7/8"}), "rule.match.host"),
        (rule({"host": "203.0.0113.7"}), "rule.match.host"),
        (rule({"host": "\ud800.test"}), "rule.match.host"),
        (rule({"host": "a.test:0"}), "rule.match.host"),
        (rule({"host": "a.test:65536"}), "rule.match.host"),
        (rule({"host": "a.test:x"}), "rule.match.host"),
        (rule({"sni": "a.test:443"}), "rule.match.sni"),
        (rule({"sni": "203.0.113.0/24"}), "rule.match.sni"),
        (rule({"method": "GET"}), "rule.match.method"),
        (rule({"method": []}), "rule.match.method"),
        (rule({"method": ["GET", "A B"]}), "rule.match.method[1]"),
        (rule({"path": "v1"}), "rule.match.path"),
        (rule({"path": "/a?b"}), "rule.match.path"),
        (rule({"path": "/a/../b"}), "rule.match.path"),
        (rule({"path": "/a//b"}), "rule.match.path"),
        (rule({"path": "/a b"}), "rule.match.path"),
        (rule({"scheme": "ftp"}), "rule.match.scheme"),
        (rule(audit="all"), "rule.action.audit"),
        (rule(inject=INJECT), "rule.action.inject"),
        (rule(inject=[INJECT] * 9), "rule.action.inject"),
        (rule(inject=[{"secret": "s"}]), "rule.action.inject[0].header"),
        (rule(inject=[{"header": "A"}]), "rule.action.inject[0].secret"),
        (rule(inject=[INJECT, {**INJECT, "header": "x-kEY"}]), "rule.action.inject[1].header"),
        (rule(inject=[{**INJECT, "header": "A B"}]), "rule.action.inject[0].header"),
        (rule(inject=[{**INJECT, "header": ":path"}]), "rule.action.inject[0].header"),
        (rule(inject=[{**INJECT, "header": "Host"}]), "rule.action.inject[0].header"),
        (rule(inject=[{**INJECT, "header": "Transfer-Encoding"}]), "rule.action.inject[0].header"),
        (rule(inject=[{**INJECT, "header": "X-Envoy-Original-Dst-Host"}]), "rule.action.inject[0].header"),
        (rule(inject=[{**INJECT, "secret": ""}]), "rule.action.inject[0].secret"),
        (rule(inject=[{**INJECT, "secret": "S3CR3T\r\nx: y"}]), "rule.action.inject[0].secret"),
        (rule(inject=[{**INJECT, "secret": "S3CR3T\n"}]), "rule.action.inject[0].secret"),
        (rule(inject=[{**INJECT, "secret": " S3CR3T"}]), "rule.action.inject[0].secret"),
        (rule(inject=[{**INJECT, "secret": "s" * 65_537}]), "rule.action.inject[0].secret"),
        (rule(inject=[{**INJECT, "format": "a\0${SECRET}"}]), "rule.action.inject[0].format"),
        (rule(allow_plaintext_inject=True), "rule.action.allow_plaintext_inject"),
    ],
)
def test_what_is_wrong_is_named(wire: object, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rule(wire)

    assert caught.value.field == field
    assert field in caught.value.message
    assert "S3CR3T" not in caught.value.message


def test_the_number_of_a_rule_is_told() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rules([rule(), {"match": {}}], field="network.rules")

    assert caught.value.field == "network.rules[1]"


def test_a_port_behind_the_host_is_diverted_but_not_compared() -> None:
    rules = parse_rules([rule({"host": "a.test:8443"}), rule({"host": "b.test"}), rule({"host": "203.0.113.7:8080"})])

    assert [one.match.host for one in rules] == ["a.test", "b.test", "203.0.113.7"]
    assert diverted_ports(rules) == (80, 443, 8080, 8443)
    assert parse_rule(to_wire(rules[0])) == rules[0]


@pytest.mark.parametrize("wire", [{}, "x", None, [rule()] * (MOST_RULES + 1)])
def test_rules_are_a_list_of_limited_length(wire: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rules(wire)

    assert caught.value.field == "rules"


def test_secrets_may_be_as_long_as_64_kib() -> None:
    assert parse_rule(rule(inject=[{**INJECT, "secret": "s" * 65_536}])).action.inject[0].secret == "s" * 65_536


def test_e7_secrets_are_masked_unless_they_are_asked_for() -> None:
    parsed = parse_rule(rule(inject=[INJECT, {"header": "Y", "secret": "S3CR3T", "format": "literal S3CR3T"}]))

    masked = json.dumps(to_wire(parsed))

    assert "S3CR3T" not in masked
    assert masked.count("***REDACTED***") == 3
    assert parse_rule(to_wire(parsed, secrets=True)) == parsed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["name", "match", "action", "sni", "host", "method", "path", "scheme", "allow", "audit", "inject", "header"]
LIKELY = st.recursive(JSON, lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4), max_leaves=12)


@given(LIKELY)
def test_any_json_is_read_or_refused(wire: object) -> None:
    try:
        parsed = parse_rule(wire)
    except InvalidInput as error:
        assert error.field  # noqa: PT017  either of two outcomes is right
    else:
        assert parse_rule(to_wire(parsed, secrets=True)) == parsed
