"""The audit log of a gateway at work."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from typing import Any

import pytest

from cube.egress.audit.log import read
from support.egress.client import http2
from support.egress.world import Box, EgressWorld
from support.egress_cases import rule

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

SECRET = "S3CR3T-of-the-test"


def audited(level: str = "full", **match: Any) -> dict[str, Any]:
    made = rule("audited", **match)
    made["action"] |= {
        "audit": level,
        "inject": [{"header": "Authorization", "secret": SECRET, "format": "Bearer ${SECRET}"}],
    }
    return made


async def lines(world: EgressWorld, mark: str, count: int) -> list[dict[str, Any]]:
    """The records whose path begins with a mark of the test, once there are so many."""
    deadline = time.monotonic() + 20
    while True:
        found = [
            one for one in read(world.settings.egress_log) if ((one["http"] or {}).get("path") or "").startswith(mark)
        ]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.1)


async def test_e10_every_request_has_a_line(world: EgressWorld, box: Box) -> None:
    await box.allow(rule("yes", host="api.a.test"), rule("no", False, host="www.a.test"))
    client = box.client()
    urls = [f"https://{'api' if number % 4 else 'www'}.a.test/e10-{number}" for number in range(100)]

    for begin in range(0, 100, 20):
        await asyncio.gather(*(client.request("GET", url) for url in urls[begin : begin + 20]))
    found = await lines(world, "/e10-", 125)

    requests = [one for one in found if one["event"] == "http_request"]
    events = [one for one in found if one["event"] == "security_event"]
    assert len(requests) == 100
    assert {one["http"]["path"] for one in requests} == {f"/e10-{number}" for number in range(100)}
    assert len(events) == 25
    assert {(one["policy"]["decision"], one["security"]["reason"]) for one in events} == {("deny", "denied_by_rule")}
    assert len({one["request_id"] for one in requests}) == 100


async def test_e10_bodies_are_told_redacted(world: EgressWorld, box: Box) -> None:
    await box.allow(audited(host="api.a.test"))
    body = json.dumps({"user": "me", "password": "hunter2"}).encode()
    headers = [("content-type", "application/json"), ("x-api-key", "mine"), ("cookie", "a=b")]

    reply = await box.client().request("POST", "https://api.a.test/e10-body?token=hunter2", headers=headers, body=body)
    (line,) = await lines(world, "/e10-body", 1)

    assert reply.status == 200
    assert json.loads(line["redacted_request_body"]) == {"user": "me", "password": "***REDACTED***"}
    assert line["http"]["path"] == "/e10-body?token=***REDACTED***"
    assert line["redacted_request_headers"]["x-api-key"] == "***REDACTED***"
    assert line["redacted_request_headers"]["content-type"] == "application/json"
    assert line["credentials"]["injected"] == ["Authorization"]
    # The server echoes what it got, the credential and the sandbox's password in it.
    assert SECRET in reply.body.decode()
    assert SECRET not in json.dumps(line)
    assert "hunter2" not in json.dumps(line)


@pytest.mark.parametrize("way", ["chunks", "gzip", "http2", "answer", "gzip answer"])
async def test_bodies_hide_in_no_form(world: EgressWorld, box: Box, way: str) -> None:
    await box.allow(audited(host="api.a.test"))
    mark, client = f"/way-{way.replace(' ', '-')}", box.client()
    secret = json.dumps({"password": "hunter2", "echo": SECRET, "seen": "yes"}).encode()
    kind = ("content-type", "application/json")
    if way == "chunks":
        body = b"".join(b"1\r\n%s\r\n" % bytes([byte]) for byte in secret) + b"0\r\n\r\n"
        await client.request(
            "POST", f"https://api.a.test{mark}", headers=[kind, ("transfer-encoding", "chunked")], body=body
        )
    elif way == "gzip":
        packed = gzip.compress(secret)
        await client.request(
            "POST", f"https://api.a.test{mark}", headers=[kind, ("content-encoding", "gzip")], body=packed
        )
    elif way == "http2":
        pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "api.a.test"), (":path", mark), kind]
        await http2(box.client(alpn=["h2"]), "https://api.a.test/", pseudo, secret)
    else:
        mark = "/gzip/" if way == "gzip answer" else "/json/"
        await client.request("GET", f"https://api.a.test{mark}?body={secret.decode().replace(' ', '%20')}")
    (line,) = await lines(world, mark, 1)

    told = line["redacted_response_body" if "answer" in way else "redacted_request_body"]
    assert json.loads(told) == {"password": "***REDACTED***", "echo": "***REDACTED***", "seen": "yes"}
    assert "hunter2" not in json.dumps(line)
    assert SECRET not in json.dumps(line)


async def test_only_the_beginning_of_long_bodies_is_kept(world: EgressWorld, box: Box) -> None:
    await box.allow(audited(host="api.a.test"))

    reply = await box.client().request(
        "POST", "https://api.a.test/count?long", headers=[("content-type", "text/plain")], body=b"word " * 400_000
    )
    (line,) = await lines(world, "/count", 1)

    assert reply.body == b"2000000"
    assert 60_000 < len(line["redacted_request_body"]) < 70_000
    assert line["redacted_request_body"].endswith("…")


async def test_metadata_has_no_bodies_and_none_has_no_line(world: EgressWorld, box: Box) -> None:
    await box.allow(audited("none", host="api.a.test", path="/silent"), audited("metadata", host="api.a.test"))

    await box.client().request("POST", "https://api.a.test/silent", body=b"x")
    await box.client().request("POST", "https://api.a.test/told", body=b"x")
    (line,) = await lines(world, "/told", 1)

    assert line["redacted_request_body"] is None
    assert await lines(world, "/silent", 0) == []


async def test_refusals_of_every_kind_are_told(world: EgressWorld, box: Box) -> None:
    await box.allow(rule(host="*.a.test"))
    world.internet.impostors.add("impostor.a.test")
    stranger = world.box()

    await box.get("http://api.a.test/ref-port", host="api.a.test:99")
    await box.get("https://api.a.test/ref-name", host="www.a.test")
    await box.get("http://other.test/ref-rule")
    await box.get("https://impostor.a.test/ref-server")
    await stranger.get("http://api.a.test/ref-policy")
    found = await lines(world, "/ref-", 10)

    reasons = {one["http"]["path"]: one["security"]["reason"] for one in found if one["event"] == "security_event"}
    assert reasons == {
        "/ref-port": "port_mismatch",
        "/ref-name": "g4_host_sni_mismatch",
        "/ref-rule": "no_rule_match",
        "/ref-server": "upstream_unreachable_or_unverified",
        "/ref-policy": "no_policy_for_sandbox",
    }


async def test_a_long_log_is_replaced_under_load(world: EgressWorld, box: Box) -> None:
    await box.allow(rule(host="api.a.test"))
    client, spool = box.client(), world.egress._spool
    spool._long = 4000

    for begin in range(0, 200, 20):
        await asyncio.gather(*(client.request("GET", f"http://api.a.test/turn-{begin + n}") for n in range(20)))
    found = await lines(world, "/turn-", 200)
    spool._long = 1 << 24

    assert sorted(one["http"]["path"] for one in found) == sorted(f"/turn-{number}" for number in range(200))


async def test_e7_secrets_are_in_no_file_and_no_dump(world: EgressWorld, box: Box) -> None:
    await box.allow(audited(host="api.a.test"))
    await box.get("https://api.a.test/e7")
    await lines(world, "/e7", 1)

    _, dump = await world.ask_envoy("/config_dump?include_eds")
    files = [path for path in world.directory.rglob("*") if path.is_file()]
    held = [
        path for path in files if SECRET.encode() in path.read_bytes() and path.name not in ("spool.jsonl", "spool.old")
    ]

    assert b"inject/" in dump
    assert SECRET.encode() not in dump
    assert b"PRIVATE KEY" not in dump
    assert held == []
