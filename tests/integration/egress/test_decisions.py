"""The gateway decides as the rules say."""

from __future__ import annotations

import copy
import itertools
import ssl
from typing import Any

import pytest

from cube.model.egress import EgressRequest, Scheme, first_match
from cube.model.egress_wire import parse_rules
from support.egress.client import Reply
from support.egress.world import Box, EgressWorld
from support.egress_cases import CASES, Case, rule

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]


async def outcome(box: Box, case: Case) -> str | None:
    """Name of the rule that decided, by what came of the request; ``None`` when none did."""
    try:
        reply = await send(box, case)
    except ssl.SSLError:
        # No rule speaks of the name: there is not even a certificate.
        return None
    if reply.status == 200:
        return dict(reply.json["headers"]).get("x-rule", "allowed")
    assert reply.status in (403, 421)
    denied = [one["name"] for one in case.rules if not one["action"]["allow"]]
    return denied[0] if reply.reason == "denied_by_rule" else None


async def send(box: Box, case: Case) -> Reply:
    url = f"{case.scheme}://{case.host}{case.path}"
    connection = {"sni": case.sni} if case.sni else {}
    return await box.client().request(case.method, url, host=case.host_header or None, **connection)


def signed(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rules, each of which tells upstream that it was the one, where it can."""
    rules = copy.deepcopy(rules)
    for one in rules:
        if one["action"]["allow"]:
            one["action"]["inject"] = [{"header": "X-Rule", "secret": one["name"]}]
    return rules


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
async def test_e6_the_gateway_decides_as_the_rules_say(box: Box, case: Case) -> None:
    await box.allow(*signed(case.rules))

    decided = await outcome(box, case)

    assert decided == case.decides or (case.scheme == "http" and decided == "allowed" and case.decides is not None)


HOSTS = ["api.a.test", "*.a.test", "203.0.113.10", None]
PATHS = ["/v1/*", "/v1/x", "/*", None]
METHODS = [["GET"], ["POST", "PUT"], None]
SCHEMES = ["https", "http", None]


def some_rules() -> list[dict[str, Any]]:
    """One rule of each kind there is, every third of which denies."""
    kinds = itertools.product(HOSTS, HOSTS[:2] + HOSTS[3:], PATHS, METHODS, SCHEMES)
    rules = []
    for number, (host, sni, path, method, scheme) in enumerate(kinds):
        fields = {"host": host, "sni": sni, "path": path, "method": method, "scheme": scheme}
        match = {key: value for key, value in fields.items() if value is not None}
        if match:
            rules.append(rule(f"r{number}", number % 3 != 0, **match))
    return rules


REQUESTS = [
    ("https", "api.a.test", "GET", "/v1/x"),
    ("https", "www.a.test", "POST", "/v1/y"),
    ("http", "api.a.test", "PUT", "/v2"),
    ("http", "www.a.test", "GET", "/v1/x"),
    ("http", "203.0.113.10", "GET", "/v1/z"),
]


@pytest.mark.parametrize("first", range(0, 428, 12))
async def test_e6_any_twelve_rules_decide_as_the_reference_does(box: Box, first: int) -> None:
    wire = some_rules()[first : first + 12]
    rules = parse_rules(wire)
    await box.allow(*signed(wire))

    for scheme, host, method, path in REQUESTS:
        sni = host if scheme == "https" else None
        expected = first_match(rules, EgressRequest(Scheme(scheme), method, path, host, sni))
        try:
            reply = await box.client().request(method, f"{scheme}://{host}{path}")
        except ssl.SSLError:
            assert expected is None
            continue
        if expected is None:
            assert reply.reason == "no_rule_match"
        elif not expected.action.allow:
            assert reply.reason == "denied_by_rule"
        else:
            assert reply.status == 200
            assert scheme == "http" or dict(reply.json["headers"])["x-rule"] == expected.name


async def test_there_are_as_many_rules_as_are_tried() -> None:
    assert 417 <= len(some_rules()) <= 431


async def test_e1_what_is_allowed_arrives_and_nothing_else(world: EgressWorld, box: Box) -> None:
    await box.allow(rule("api", host="api.a.test"), rule("no", False))

    allowed, denied = await box.get("https://api.a.test/x"), await box.get("https://other.test/y")

    assert (allowed.status, denied.status) == (200, 403)
    assert denied.json["code"] == 403
    assert denied.get("content-type") == "application/json"
    assert world.internet.targets() == ["/x"]


async def test_e4_a_sandbox_with_rules_sees_certificates_of_the_authority(box: Box) -> None:
    await box.allow(rule(host="api.a.test"))

    reply = await box.get("https://api.a.test/")

    assert reply.issuer == "Cube Egress Root CA"


async def test_e16_a_sandbox_without_a_policy_is_refused(world: EgressWorld, box: Box) -> None:
    await box.allow(rule(host="api.a.test"))
    stranger = world.box()

    replies = [await stranger.get(f"{scheme}://api.a.test/") for scheme in ("http", "https")]

    assert [(reply.status, reply.reason) for reply in replies] == [(403, "no_policy_for_sandbox")] * 2
    assert world.internet.seen == []


async def test_policies_of_two_sandboxes_do_not_meet(world: EgressWorld, box: Box) -> None:
    other = world.box()
    await box.allow(rule(host="api.a.test"))
    await other.allow(rule(host="other.test"))

    assert (await box.get("https://api.a.test/")).status == 200
    assert (await other.get("https://other.test/")).status == 200
    assert (await box.get("https://other.test/")).reason == "no_rule_match"
    assert (await other.get("https://api.a.test/")).reason == "no_rule_match"


async def test_a_removed_policy_is_closed_and_a_new_one_counts_for_open_connections(box: Box) -> None:
    await box.allow(rule(host="api.a.test"))
    assert (await box.get("http://api.a.test/")).status == 200

    await box.allow(rule(host="www.a.test"))
    assert (await box.get("http://api.a.test/")).reason == "no_rule_match"

    await box.world.egress.remove(box.address)
    assert (await box.get("http://www.a.test/")).reason == "no_policy_for_sandbox"
