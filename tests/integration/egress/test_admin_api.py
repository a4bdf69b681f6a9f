"""The admin API over a gateway at work."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import pytest_asyncio

from cube import __version__
from cube.egress.admin_api import create_admin_api
from support.egress.world import Box, EgressWorld
from support.egress_cases import rule

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

SECRET = "S3CR3T-of-the-test"
MASKED = "***REDACTED***"


@pytest_asyncio.fixture(loop_scope="module")
async def admin(world: EgressWorld) -> Any:
    transport = httpx.ASGITransport(create_admin_api(world.egress))
    async with httpx.AsyncClient(transport=transport, base_url="http://egress/admin/v1") as client:
        yield client


def wire(name: str = "api", host: str = "api.a.test", **action: Any) -> dict[str, Any]:
    return {"id": name, "match": {"host": host}, "action": {"allow": True, **action}}


def injecting() -> dict[str, Any]:
    return wire(inject=[{"header": "Authorization", "secret": SECRET, "format": "Bearer ${SECRET}"}])


async def test_e14_health_says_which_build_it_is_and_how_many_policies_there_are(
    admin: httpx.AsyncClient, box: Box
) -> None:
    before = (await admin.get("/health")).json()
    await box.allow(rule(host="api.a.test"))
    after = (await admin.get("/health")).json()

    assert {"status", "version", "commit", "build_time", "policies"} <= before.keys()
    assert (after["status"], after["version"]) == ("ready", __version__)
    assert after["policies"] == before["policies"] + 1


async def test_e2_what_is_put_is_in_force_and_shown_masked(
    admin: httpx.AsyncClient, world: EgressWorld, box: Box
) -> None:
    put = await admin.put(f"/policies/{box.address}", json={"policy_id": "p", "rules": [injecting()]})
    reply = await box.get("https://api.a.test/")
    shown = [(await admin.get(path)).text for path in (f"/policies/{box.address}", "/policies", "/dump")]

    assert put.json() == {"policy_id": "p", "in_force": True}
    assert reply.status == 200
    assert world.internet.seen[0].all("authorization") == [f"Bearer {SECRET}"]
    assert all(SECRET not in text for text in shown)
    assert MASKED in shown[0]
    assert MASKED in shown[2]


async def test_a_rule_is_replaced_or_added_by_its_id(admin: httpx.AsyncClient, box: Box) -> None:
    path = f"/policies/{box.address}"
    await admin.put(path, json={"rules": [injecting(), wire("no", "www.a.test", allow=False)]})

    await admin.patch(path, json=wire("no", "www.a.test"))
    await admin.patch(path, json=wire("more", "other.test"))
    rules = (await admin.get(path)).json()["rules"]

    assert [one["id"] for one in rules] == ["api", "no", "more"]
    assert (await box.get("https://www.a.test/")).status == 200
    assert (await box.get("https://other.test/")).status == 200


async def test_a_policy_that_is_deleted_refuses(admin: httpx.AsyncClient, box: Box) -> None:
    path = f"/policies/{box.address}"
    await admin.put(path, json={"rules": [wire()]})

    assert (await admin.delete(path)).status_code == 204
    assert (await admin.get(path)).status_code == 404
    assert (await admin.delete(path)).status_code == 404
    assert (await box.get("http://api.a.test/")).reason == "no_policy_for_sandbox"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "the body"),
        ({"rules": []}, "rules"),
        ({"rules": [{"match": {}, "action": {"allow": True}}]}, "rules[0].id"),
        ({"rules": [wire(), wire()]}, "rules[1].id"),
        ({"rules": [{"id": "x", "action": {"allow": True}}]}, "rules[0]"),
        ({"rules": [{"id": "x", "match": {}, "action": {"allow": "yes"}}]}, "rules[0].action.allow"),
        ({"rules": [{"id": "x", "match": {"hots": "a"}, "action": {"allow": True}}]}, "rules[0].match.hots"),
        ({"rules": [wire(audit="loud")]}, "rules[0].action.audit"),
        ({"rules": [wire(inject=[{"header": "X", "secret": MASKED}])]}, "rules[0].action.inject"),
        ({"rules": [wire()], "more": 1}, "more"),
        ({"rules": [wire()], "policy_id": ""}, "policy_id"),
        ({"rules": [wire(str(number)) for number in range(257)]}, None),
    ],
)
async def test_what_is_wrong_is_answered_400_and_named(
    admin: httpx.AsyncClient, box: Box, body: Any, field: str | None
) -> None:
    answer = await admin.put(f"/policies/{box.address}", json=body)

    assert answer.status_code == 400
    assert answer.json().get("field") == field
    assert (await admin.get(f"/policies/{box.address}")).status_code == 404


@pytest.mark.parametrize("address", ["010.0.0.1", "::1", "10.0.0", "x"])
async def test_addresses_have_one_form(admin: httpx.AsyncClient, address: str) -> None:
    assert (await admin.get(f"/policies/{address}")).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("GET", "/../x", 404), ("POST", "/health", 405)]
)
async def test_nothing_else_is_there(admin: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    assert (await admin.request(method, path)).status_code == status


async def test_bodies_have_a_limit_and_are_json(admin: httpx.AsyncClient, box: Box) -> None:
    path = f"/policies/{box.address}"

    assert (await admin.put(path, content=b" " * (1024 * 1024 + 1))).status_code == 413
    assert (await admin.put(path, content=b"{")).status_code == 400
