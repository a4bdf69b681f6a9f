"""``Idempotency-Key`` over HTTP."""

from __future__ import annotations

import httpx
import pytest

from support.master import Master

BODY = {"templateID": "base", "timeout": 60, "metadata": {"a": "b"}}


async def create(api: httpx.AsyncClient, key: str, body: object = BODY, **headers: str) -> httpx.Response:
    return await api.post("/v2/sandboxes", json=body, headers={"Idempotency-Key": key, **headers})


async def test_a_repeated_create_is_answered_with_the_same_body(api: httpx.AsyncClient, master: Master) -> None:
    first, again = await create(api, "k"), await create(api, "k")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert len(master.node.alive) == 1


async def test_both_routes_share_the_keys(api: httpx.AsyncClient) -> None:
    first = await create(api, "k")
    again = await api.post("/sandboxes", json=BODY, headers={"Idempotency-Key": "k"})
    assert again.json() == first.json()


async def test_the_order_of_the_fields_does_not_matter(api: httpx.AsyncClient) -> None:
    first = await create(api, "k")
    assert (await create(api, "k", dict(reversed(BODY.items())))).json() == first.json()


async def test_another_body_is_answered_422(api: httpx.AsyncClient) -> None:
    await create(api, "k")
    answer = await create(api, "k", {**BODY, "timeout": 61})
    assert (answer.status_code, answer.json()["code"]) == (422, 422)
    assert "Idempotency-Key" in answer.json()["message"]


async def test_callers_have_keys_of_their_own(api: httpx.AsyncClient) -> None:
    answers = [await create(api, "k", **{"X-API-KEY": name}) for name in ("alice", "bob", "alice")]
    ids = [answer.json()["sandboxID"] for answer in answers]
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "a/b"])
async def test_a_malformed_key_is_named(api: httpx.AsyncClient, key: str) -> None:
    answer = await create(api, key)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("Idempotency-Key: ")
