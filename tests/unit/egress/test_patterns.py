"""Names and ports of rules as regular expressions."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.egress.compile import Policy, scope, secrets
from cube.egress.patterns import network_pattern, where_pattern
from cube.model.egress import Match, Scheme
from cube.model.egress_wire import parse_rules
from support.egress_cases import LLM, rule


def fits(match: Match, text: str, scheme: Scheme = Scheme.HTTPS, ports: tuple[int, ...] = (80, 443)) -> bool:
    where = where_pattern(match, scheme, ports)
    return where is not None and re.fullmatch(where.regex, text) is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("443 a.test a.test", True),
        ("443 a.test A.Test", True),
        ("443 a.test a.test:443", True),
        ("80 a.test a.test:80", True),
        ("443 a.test a.test.", False),
        ("443 a.test a.test:80", False),
        ("80 a.test a.test", False),
        ("8443 a.test a.test:8443", False),
        ("443 b.test a.test", False),
        ("443 a.test b.test", False),
        ("443  a.test", False),
        ("443 aXtest aXtest", False),
        ("443 a.test a.test:443 x", False),
    ],
)
def test_one_name_fits_where_all_that_is_said_agrees(text: str, expected: bool) -> None:
    assert fits(Match(host="a.test"), text) is expected
    assert fits(Match(sni="a.test"), text) is expected


def test_plain_http_says_nothing_in_a_handshake() -> None:
    for text in ("80  a.test", "80 - a.test", "80 - a.test:80"):
        assert fits(Match(host="a.test"), text, Scheme.HTTP)
    assert not fits(Match(host="a.test"), "80 a.test a.test", Scheme.HTTP)
    assert where_pattern(Match(sni="a.test"), Scheme.HTTP, (80,)) is None


def test_other_ports_stand_in_the_authority() -> None:
    assert fits(Match(host="a.test"), "8443 a.test a.test:8443", ports=(443, 8443))
    assert not fits(Match(host="a.test"), "8443 a.test a.test", ports=(443, 8443))


def test_patterns_that_no_name_fits_are_no_routes() -> None:
    assert where_pattern(Match(sni="a.test", host="b.test"), Scheme.HTTPS, (443,)) is None
    assert where_pattern(Match(sni="a.test", host="*.b.test"), Scheme.HTTPS, (443,)) is None
    assert where_pattern(Match(scheme=Scheme.HTTP), Scheme.HTTPS, (443,)) is None


@pytest.mark.parametrize(
    ("match", "exact"),
    [
        (Match(), False),
        (Match(host="*.a.test"), False),
        (Match(sni="*.a.test"), False),
        (Match(host="203.0.113.0/24"), False),
        (Match(host="a.test"), True),
        (Match(sni="x.a.test", host="*.a.test"), True),
        (Match(sni="*.a.test", host="x.a.test"), True),
    ],
)
def test_what_is_not_exact_is_left_to_the_gate(match: Match, exact: bool) -> None:
    where = where_pattern(match, Scheme.HTTPS, (443,))

    assert where is not None
    assert where.exact is exact


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_networks_fit_their_addresses(base: ipaddress.IPv4Address, length: int, other: ipaddress.IPv4Address) -> None:
    network = ipaddress.IPv4Network((base, length), strict=False)
    pattern = network_pattern(str(network))

    assert re.fullmatch(pattern, str(base))
    assert (re.fullmatch(pattern, str(other)) is not None) == (other in network)


def test_networks_fit_no_other_spelling() -> None:
    assert not re.fullmatch(network_pattern("203.0.113.0/24"), "203.0.113.010")
    assert not re.fullmatch(network_pattern("203.0.113.0/24"), "203.0.113.300")


def policy(*rules: dict) -> Policy:
    return Policy("10.0.0.2", "box", parse_rules(list(rules)))


def test_rules_get_names_of_their_own() -> None:
    assert policy(rule("a"), rule("a"), {**rule(), "name": None}, rule("a#1")).ids == ("a", "a#1", "rule-2", "a#1#3")


def test_e7_secrets_are_in_no_route() -> None:
    made = policy(LLM)

    assert "k-123" not in str(scope(made))
    assert secrets(made) == {"inject/10.0.0.2/0/authorization": "Bearer k-123"}


def test_what_is_never_injected_is_never_told() -> None:
    plain = {**LLM, "match": {"scheme": "http"}}
    denied = {**LLM, "action": {**LLM["action"], "allow": False}}

    assert secrets(policy(plain, denied)) == {}
