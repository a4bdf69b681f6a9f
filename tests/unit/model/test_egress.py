"""The meaning of egress rules."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.model.egress import (
    Action,
    EgressRequest,
    EgressRule,
    Injection,
    Match,
    Scheme,
    first_match,
    name_matches,
)
from cube.model.egress_wire import parse_rules
from support.egress_cases import CASES, Case


def request(case: Case) -> EgressRequest:
    scheme = Scheme(case.scheme)
    host = (case.host_header or case.host).rpartition(":")[0] or case.host_header or case.host
    sni = (case.sni or case.host) if scheme is Scheme.HTTPS else None
    return EgressRequest(scheme, case.method, urlsplit(case.path).path, host, sni)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_e6_the_first_rule_that_fits_decides(case: Case) -> None:
    decided = first_match(parse_rules(case.rules), request(case))

    assert (decided.name if decided else None) == case.decides


def test_e6_there_are_enough_cases() -> None:
    assert len(CASES) >= 40
    assert len({case.title for case in CASES}) == len(CASES)


def test_a_missing_host_fits_no_host() -> None:
    rule = EgressRule(Action(allow=True), Match(host="a.test"))

    assert first_match([rule], EgressRequest(Scheme.HTTP, "GET", "/")) is None


@pytest.mark.parametrize(
    ("pattern", "host", "fits"),
    [
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7", "203.0.113.8", False),
        ("203.0.113.0/24", "203.0.113.8", True),
        ("203.0.113.0/24", "203.0.114.8", False),
        ("203.0.113.0/24", "a.test", False),
        ("203.0.113.0/24", "203.0.113", False),
    ],
)
def test_hosts_may_be_addresses_and_networks(pattern: str, host: str, fits: bool) -> None:
    rule = EgressRule(Action(allow=True), Match(host=pattern))

    assert (first_match([rule], EgressRequest(Scheme.HTTP, "GET", "/", host)) is rule) is fits


@given(st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){1,3}", fullmatch=True), st.from_regex(r"[a-z.]{1,9}", fullmatch=True))
def test_a_wildcard_fits_what_ends_with_its_name_behind_a_dot(name: str, front: str) -> None:
    assert name_matches(f"*.{name}", f"{front}.{name}")
    assert not name_matches(f"*.{name}", name)
    assert not name_matches(f"*.{name}", f"x{name}")


def test_an_injection_says_its_format_with_the_secret_in_it() -> None:
    assert Injection("A", "s3").value == "s3"
    assert Injection("A", "s3", "Bearer ${SECRET}").value == "Bearer s3"
    assert Injection("A", "s3", "${SECRET}/${SECRET}").value == "s3/${SECRET}"
    assert Injection("A", "s3", "literal").value == "literal"


def test_a_secret_put_in_is_not_read_again() -> None:
    assert Injection("A", "${SECRET}x", "b ${SECRET}").value == "b ${SECRET}x"


def test_e7_secrets_do_not_show_when_a_rule_is_printed() -> None:
    rule = EgressRule(Action(allow=True, inject=(Injection("A", "S3CR3T"),)))

    assert "S3CR3T" not in repr(rule)
    assert "S3CR3T" not in f"{rule}"


def test_fingerprints_name_a_secret() -> None:
    assert Injection("A", "k-123").fingerprint == Injection("B", "k-123", "x").fingerprint
    assert Injection("A", "k-123").fingerprint == "fp-3605a9e4"
