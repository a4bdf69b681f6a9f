"""E2B's transforms, told as rules."""

from __future__ import annotations

from typing import Any

import pytest

from cube.model.egress import EgressRequest, Scheme, first_match
from cube.model.egress_transforms import parse_transforms, transform_rules
from cube.model.errors import InvalidInput


def headers(**values: str) -> list[dict[str, Any]]:
    return [{"transform": {"headers": values}}]


TRANSFORMS = parse_transforms(
    {"*.a.test": headers(X="wide"), "api.a.test": headers(X="narrow"), "c.test": headers(X="c")}
)


def injected(host: str, allowed: list[str] | None) -> str | None:
    """What is injected for a host: a value, ``""`` for nothing, ``None`` when it is not let through."""
    rule = first_match(transform_rules(TRANSFORMS, allowed), EgressRequest(Scheme.HTTPS, "GET", "/", host, host))
    if rule is None or not rule.action.allow:
        return None
    return rule.action.inject[0].value if rule.action.inject else ""


@pytest.mark.parametrize(
    ("host", "allowed", "value"),
    [
        ("api.a.test", None, "narrow"),
        ("www.a.test", None, "wide"),
        ("a.test", None, ""),
        ("other.test", None, ""),
        ("api.a.test", ["*.a.test"], "narrow"),
        ("www.a.test", ["*.a.test"], "wide"),
        ("www.a.test", ["www.a.test"], "wide"),
        ("api.a.test", ["www.a.test"], None),
        ("x.www.a.test", ["*.www.a.test"], "wide"),
        ("www.a.test", ["*.www.a.test"], None),
        ("b.test", ["b.test"], ""),
        ("c.test", ["b.test"], None),
        ("c.test", [], None),
        ("api.a.test", ["*.test"], "narrow"),
        ("z.test", ["*.test"], ""),
    ],
)
def test_a_transform_allows_nothing_and_the_most_specific_counts(
    host: str, allowed: list[str] | None, value: str | None
) -> None:
    assert injected(host, allowed) == value


def test_several_transforms_of_a_host_add_up_and_the_last_of_a_header_counts() -> None:
    wire = {"A.test": [*headers(X="1", Y="2"), *headers(x="3"), {}, {"transform": {}}]}

    (transform,) = parse_transforms(wire)

    assert transform.host == "a.test"
    assert {one.header.lower(): one.value for one in transform.inject} == {"x": "3", "y": "2"}


@pytest.mark.parametrize(
    ("wire", "field"),
    [
        ([], "rules"),
        ({"a b": []}, 'rules."a b"'),
        ({"a.test": {}}, 'rules."a.test"'),
        ({"a.test": [7]}, 'rules."a.test"[0]'),
        ({"a.test": [{"transfrom": {}}]}, 'rules."a.test"[0].transfrom'),
        ({"a.test": [{"transform": 7}]}, 'rules."a.test"[0].transform'),
        ({"a.test": [{"transform": {"headers": []}}]}, 'rules."a.test"[0].transform.headers'),
        ({"a.test": headers(host="b")}, 'rules."a.test"[0].transform.headers.host'),
        ({"a.test": headers(X="a\nb")}, 'rules."a.test"[0].transform.headers.X'),
        ({"a.test": headers(**{f"x{number}": "y" for number in range(9)})}, 'rules."a.test"'),
    ],
)
def test_what_is_wrong_is_named(wire: object, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_transforms(wire)

    assert caught.value.field == field
