"""Network policies: how they are read, what is refused, and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest

from cube.model.egress import REDACTED
from cube.model.errors import InvalidInput
from cube.model.network import DnsMode, NetworkConfig, NetworkLimits, merged
from cube.model.network_wire import WireNetwork, parse_network, restored, shown, stored, summary

RULE = {
    "name": "llm",
    "match": {"host": "api.example.com", "scheme": "https"},
    "action": {
        "allow": True,
        "inject": [{"header": "Authorization", "secret": "S3CR3T", "format": "Bearer ${SECRET}"}],
    },
}
TRANSFORM = {"api.example.com": [{"transform": {"headers": {"X-Key": "S3CR3T"}}}]}
ALL = "0.0.0.0/0"


def parse(**parts: Any) -> NetworkConfig:
    return parse_network(WireNetwork(**parts))


def refusal(**parts: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as refused:
        parse(**parts).checked()
    return refused.value


def test_entries_are_made_one_way() -> None:
    network = parse(
        allow_out=["API.Example.COM.", "*.Example.org", "1.2.3.4", "10.9.8.7/8", "1.2.3.4"],
        deny_out=[ALL, "5.6.7.8/32"],
    )
    assert network.allow_out == ("api.example.com", "*.example.org", "1.2.3.4", "10.0.0.0/8")
    assert network.deny_out == (ALL, "5.6.7.8/32")
    assert network.allowed_names == ("api.example.com", "*.example.org")
    assert [str(found) for found in network.allowed_networks] == ["1.2.3.4/32", "10.0.0.0/8"]


@pytest.mark.parametrize("entry", ["example.com", "*.example.com", "localhost", "a.test."])
def test_e9_domain_in_deny_out_is_refused(entry: str) -> None:
    refused = refusal(deny_out=[ALL, entry])
    assert refused.code == 400
    assert refused.field == "network.denyOut[1]"
    assert "only IPv4 addresses and networks can be denied" in refused.message


@pytest.mark.parametrize("parts", [{}, {"allow_internet_access": True}, {"deny_out": ["10.0.0.0/8"]}])
def test_e9_domain_without_deny_all_is_refused(parts: dict[str, Any]) -> None:
    refused = refusal(allow_out=["example.com"], **parts)
    assert refused.code == 400
    assert "allowed domains require disabling public outbound traffic" in refused.message
    assert "'0.0.0.0/0' to deny_out" in refused.message


@pytest.mark.parametrize("parts", [{"allow_internet_access": False}, {"deny_out": [ALL]}, {"deny_out": ["9.9.9.9/0"]}])
def test_e9_domain_with_deny_all_is_taken(parts: dict[str, Any]) -> None:
    assert parse(allow_out=["example.com"], **parts).checked().allowed_names == ("example.com",)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("", "1 to 256 characters"),
        ("1.2.3", "no IPv4 address"),
        ("1.2.3.4/33", "no IPv4 address"),
        ("1.2.3.4/255.255.0.0", "prefix"),
        ("01.2.3.4", "no IPv4 address"),
        ("1.2.3.4:443", "ports are not part"),
        ("::1", "IPv6 is closed"),
        ("2001:db8::/32", "IPv6 is closed"),
        ("*", "leave it out"),
        ("exa mple.com", "domain name"),
        ("a.*.com", "domain name"),
        ("http://a.com", "ports are not part"),
        ("a.com/path", "domain name"),
        ("bücher.example", "ASCII"),
        ("-a.com", "domain name"),
        ("a" * 300, "1 to 256 characters"),
    ],
)
def test_e9_what_is_no_entry(entry: str, words: str) -> None:
    refused = refusal(allow_out=["1.1.1.1", entry], deny_out=[ALL])
    assert refused.field == "network.allowOut[1]"
    assert words in refused.message


@pytest.mark.parametrize("name", ["allow_out", "deny_out"])
def test_e9_too_many_entries(name: str) -> None:
    entries = [f"1.{n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(8193)]
    wire = {"allow_out": "allowOut", "deny_out": "denyOut"}[name]
    assert refusal(**{name: entries}).message == f"network.{wire} exceeds maximum entries: got 8193, max 8192"
    assert len(getattr(parse(**{name: entries[1:]}), name)) == 8192


def test_e9_too_many_names() -> None:
    names = [f"n{number}.example.com" for number in range(1025)]
    refused = refusal(allow_out=names, deny_out=[ALL])
    assert refused.message == "network.allowOut domains exceeds maximum entries: got 1025, max 1024"
    assert refused.field == "network.allowOut"
    parse(allow_out=names[1:], deny_out=[ALL]).checked()


def test_e9_rules_are_a_list_or_a_mapping() -> None:
    assert parse(rules=[RULE]).rules[0].name == "llm"
    assert parse(rules=TRANSFORM).transforms[0].host == "api.example.com"
    assert refusal(rules="x").field == "network.rules"
    assert refusal(rules=[{**RULE, "match": []}]).field == "network.rules[0].match"


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"dns_servers": ["1.1.1.1", "dns.google"]}, "network.dnsServers[1]"),
        ({"dns_servers": ["2606:4700::1111"]}, "network.dnsServers[0]"),
        ({"dns_servers": ["1.1.1.1"] * 11}, "network.dnsServers"),
        ({"dns": "closed"}, "network.dns"),
        ({"limits": {"connections": 100}}, "network.limits.connections"),
        ({"limits": {"bytes_per_second": 5}}, "network.limits.bytesPerSecond"),
    ],
)
def test_e9_other_fields(parts: dict[str, Any], field: str) -> None:
    assert refusal(**parts).field == field


def test_f1_resolvers_are_appended_once_where_a_policy_is_restrictive() -> None:
    network = parse(allow_out=["1.2.3.4/32"], deny_out=[ALL])
    assert network.effective_allow_out(["9.9.9.9/32"]) == ("1.2.3.4/32", "9.9.9.9/32")
    again = parse(allow_out=["9.9.9.9/32"], deny_out=[ALL])
    assert again.effective_allow_out(["9.9.9.9/32", "9.9.9.9/32"]) == ("9.9.9.9/32",)


@pytest.mark.parametrize(
    "parts", [{"deny_out": ["8.8.8.8"]}, {"allow_out": ["1.1.1.1"]}, {"rules": [RULE]}, {"rules": TRANSFORM}]
)
def test_f1_every_kind_of_restriction_counts(parts: dict[str, Any]) -> None:
    assert "9.9.9.9/32" in parse(**parts).effective_allow_out(["9.9.9.9/32"])


def test_f1_nothing_is_appended_without_a_policy() -> None:
    assert parse().effective_allow_out(["9.9.9.9/32"]) == ()


@pytest.mark.parametrize("allowed", [[], ["1.2.3.4"], ["a.test"]])
def test_f3_no_internet_access_appends_no_resolvers(allowed: list[str]) -> None:
    network = parse(allow_internet_access=False, allow_out=allowed)
    assert network.effective_allow_out(["9.9.9.9/32"]) == tuple(allowed)


def test_no_internet_access_denies_everything() -> None:
    assert parse(allow_internet_access=False).denies_everything
    assert not parse(allow_internet_access=True).denies_everything
    assert not parse().denies_everything


def test_merge_template_first() -> None:
    template = parse(allow_out=["1.1.1.1", "2.2.2.2"], deny_out=["3.3.3.3"], dns="strict", dns_servers=["9.9.9.9"])
    request = parse(allow_out=["2.2.2.2", "4.4.4.4"], deny_out=[ALL], allow_internet_access=True)
    both = merged(template, request)
    assert both.allow_out == ("1.1.1.1", "2.2.2.2", "4.4.4.4")
    assert both.deny_out == ("3.3.3.3", ALL)
    assert both.dns is DnsMode.STRICT
    assert both.dns_servers == ("9.9.9.9",)


def test_merge_access_is_the_request_s_when_it_says_so() -> None:
    closed = parse(allow_internet_access=False)
    assert merged(closed, parse(allow_internet_access=True)).allow_internet_access is True
    assert merged(closed, parse()).allow_internet_access is False
    assert merged(None, parse()).allow_internet_access is None


def test_merge_rules_of_the_request_come_first() -> None:
    template = parse(rules=[{**RULE, "name": "template"}])
    assert [rule.name for rule in merged(template, parse(rules=[RULE])).rules] == ["llm", "template"]


def test_merge_transforms_of_the_request_replace_those_of_a_host() -> None:
    other = {"api.example.com": [{"transform": {"headers": {"X-Key": "other"}}}], "b.test": []}
    both = merged(parse(rules=other), parse(rules=TRANSFORM))
    assert {one.host: [i.secret for i in one.inject] for one in both.transforms} == {
        "api.example.com": ["S3CR3T"],
        "b.test": [],
    }


def test_merge_limits() -> None:
    both = merged(parse(limits={"connections": 16, "bytes_per_second": 2048}), parse(limits={"connections": 64}))
    assert both.limits == NetworkLimits(64, 2048)


def test_merge_is_checked_as_a_whole() -> None:
    """The deny-all that a domain needs may be the template's; and a request may take it away."""
    template, request = parse(allow_internet_access=False), parse(allow_out=["a.test"])
    assert merged(template, request).denies_everything
    with pytest.raises(InvalidInput):
        merged(template, parse(allow_out=["a.test"], allow_internet_access=True))
    with pytest.raises(InvalidInput):
        merged(None, request)


def test_stored_and_restored() -> None:
    network = parse(
        allow_internet_access=False,
        allow_out=["a.test", "10.0.0.0/8"],
        deny_out=["9.9.9.9"],
        rules=[RULE],
        dns_servers=[],
        dns="strict",
        limits={"connections": 256},
    )
    assert restored(stored(network)) == network
    assert restored(stored(parse(rules=TRANSFORM))) == parse(rules=TRANSFORM)
    assert restored(stored(NetworkConfig())) == NetworkConfig()


@pytest.mark.parametrize("rules", [[RULE], TRANSFORM])
def test_e7_secrets_are_not_shown(rules: object) -> None:
    network = parse(rules=rules, allow_out=["a.test"], deny_out=[ALL])
    for text in (str(shown(network)), summary(network), repr(network)):
        assert "S3CR3T" not in text
    assert REDACTED in str(shown(network))


def test_shown_is_what_a_client_would_send() -> None:
    parts = {"allow_out": ["a.test"], "deny_out": [ALL], "dns_servers": ["1.1.1.1"], "dns": "strict"}
    network = parse(**parts, limits={"connections": 16})
    assert shown(network) == {
        "allowOut": ["a.test"],
        "denyOut": [ALL],
        "dnsServers": ["1.1.1.1"],
        "dns": "strict",
        "limits": {"connections": 16},
    }
    assert shown(NetworkConfig()) == {}


def test_transforms_do_not_allow_by_themselves() -> None:
    """With everything denied, the gateway is told of hosts that are allowed by name alone."""
    other = {**TRANSFORM, "b.test": [{"transform": {"headers": {"X-Key": "k"}}}]}
    closed = parse(rules=other, allow_out=["b.test"], deny_out=[ALL])
    assert [rule.match.host for rule in closed.gateway_rules] == ["b.test"]
    opened = parse(rules=other)
    assert {rule.match.host for rule in opened.gateway_rules} == {"api.example.com", "b.test", None}
    networks = parse(rules=other, allow_out=["203.0.113.0/24"], deny_out=[ALL])
    assert {rule.match.host for rule in networks.gateway_rules} == {"api.example.com", "b.test"}
