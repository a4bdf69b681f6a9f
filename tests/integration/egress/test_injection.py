"""Credentials are put in outside of the sandbox, where they belong and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from support.egress.client import http2
from support.egress.world import Box, EgressWorld
from support.egress_cases import rule

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

SECRET = "S3CR3T-of-the-test"


def injecting(
    name: str = "inject", *, header: str = "Authorization", format: str = "Bearer ${SECRET}", **match: Any
) -> Any:
    made = rule(name, **match)
    made["action"]["inject"] = [{"header": header, "secret": SECRET, "format": format}]
    return made


async def test_e5_the_server_sees_the_credential_and_not_what_the_sandbox_forged(world: EgressWorld, box: Box) -> None:
    await box.allow(injecting(host="api.a.test"))
    forged = [("Authorization", "forged"), ("authorization", "forged too"), ("AUTHORIZATION", "and this")]

    reply = await box.get("https://api.a.test/", headers=forged)

    assert reply.status == 200
    assert world.internet.seen[0].all("authorization") == [f"Bearer {SECRET}"]


async def test_e5_over_http2_as_well(world: EgressWorld, box: Box) -> None:
    await box.allow(injecting(host="api.a.test"))
    pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "api.a.test"), (":path", "/")]

    await http2(
        box.client(alpn=["h2"]), "https://api.a.test/", [*pseudo, ("authorization", "a"), ("authorization", "b")]
    )

    assert world.internet.seen[0].all("authorization") == [f"Bearer {SECRET}"]


async def test_e5_nothing_is_injected_without_tls_and_the_forged_header_is_gone(world: EgressWorld, box: Box) -> None:
    await box.allow(injecting(host="api.a.test"))

    reply = await box.get("http://api.a.test/", headers=[("Authorization", "forged")])

    assert reply.status == 200
    assert world.internet.seen[0].all("authorization") == []


async def test_several_headers_are_injected_in_their_formats(world: EgressWorld, box: Box) -> None:
    made = rule(host="api.a.test")
    made["action"]["inject"] = [
        {"header": "X-Api-Key", "secret": "k1"},
        {"header": "Authorization", "secret": "k2", "format": "Basic ${SECRET}=="},
        {"header": "X-Literal", "secret": "unused", "format": "a literal value"},
    ]
    await box.allow(made)

    await box.get("https://api.a.test/")

    seen = world.internet.seen[0]
    assert [seen.get(name) for name in ("x-api-key", "authorization", "x-literal")] == [
        "k1",
        "Basic k2==",
        "a literal value",
    ]


async def test_long_secrets_arrive_whole(world: EgressWorld, box: Box) -> None:
    made = rule(host="api.a.test")
    made["action"]["inject"] = [{"header": "X-Long", "secret": "s" * 12_000}]
    await box.allow(made)

    await box.get("https://api.a.test/")

    assert world.internet.seen[0].get("x-long") == "s" * 12_000


async def test_only_the_rule_that_decides_injects(world: EgressWorld, box: Box) -> None:
    await box.allow(injecting(host="api.a.test", path="/v1/*"), rule("rest", host="api.a.test"))

    for path in ("/v1/x", "/v2"):
        await box.get(f"https://api.a.test{path}")

    assert [one.get("authorization") for one in world.internet.seen] == [f"Bearer {SECRET}", None]


async def test_a_new_secret_replaces_the_old_one(world: EgressWorld, box: Box) -> None:
    for secret in ("first", "second"):
        made = rule(host="api.a.test")
        made["action"]["inject"] = [{"header": "X-Key", "secret": secret}]
        await box.allow(made)
        await box.get("https://api.a.test/")

    assert [one.get("x-key") for one in world.internet.seen] == ["first", "second"]


async def test_a_rule_that_no_longer_injects_leaves_the_sandboxes_header(world: EgressWorld, box: Box) -> None:
    await box.allow(injecting(host="api.a.test"))
    await box.allow(rule(host="api.a.test"))

    await box.get("https://api.a.test/", headers=[("Authorization", "mine")])

    assert world.internet.seen[0].all("authorization") == ["mine"]


async def test_what_is_injected_for_one_sandbox_is_not_for_another(world: EgressWorld, box: Box) -> None:
    other = world.box()
    await box.allow(injecting(host="api.a.test"))
    await other.allow(rule(host="api.a.test"))

    await other.get("https://api.a.test/")

    assert world.internet.seen[0].get("authorization") is None


async def test_an_impostor_gets_nothing(world: EgressWorld, box: Box) -> None:
    """The trap of dialling the sandbox's address, and of a server without the right certificate."""
    world.internet.impostors.add("impostor.a.test")
    await box.allow(injecting(host="*.a.test"))

    reply = await box.get("https://impostor.a.test/")

    assert (reply.status, reply.reason) == (502, "upstream_unreachable_or_unverified")
    assert world.internet.seen == []


async def test_the_world_is_not_told_about_the_sandbox(world: EgressWorld, box: Box) -> None:
    await box.allow(rule(host="api.a.test"))
    lies = [("X-Forwarded-For", "1.2.3.4"), ("Forwarded", "for=1.2.3.4"), ("X-Real-IP", "1.2.3.4")]
    more = [("X-Envoy-Original-Path", "/z"), ("x-cube-source", "10.0.0.1"), ("X-Cube-Cluster", "plain")]

    for scheme in ("http", "https"):
        assert (await box.get(f"{scheme}://api.a.test/", headers=[*lies, *more])).status == 200

    for seen in world.internet.seen:
        names = {name for name, _ in seen.headers}
        assert not {name for name in names if name.startswith(("x-", "forwarded", "via"))}
        assert box.address not in str(seen.headers)
