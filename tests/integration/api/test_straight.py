"""The short way for plain requests answers what FastAPI's way does."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from cube.model.errors import HostError, LimitExceeded
from support.master import Master

#: FastAPI's way is taken by what has parameters in its content type.
LONG_WAY = "application/json; charset=utf-8"
BODIES = {
    "plain": b'{"templateID": "base"}',
    "metadata": b'{"templateID": "base", "metadata": {"a": "b"}, "timeout": 30, "unheard_of": [1]}',
    "unknown template": b'{"templateID": "none"}',
    "no template": b"{}",
    "number as text": b'{"templateID": "base", "timeout": "15"}',
    "negative timeout": b'{"templateID": "base", "timeout": -1}',
    "not JSON": b"{",
    "no object": b"[1]",
    "nothing": b"",
    "no text": b'{"templateID": "\xff"}',
    "too deep": b"[" * 100_000,
    "unsupported": b'{"templateID": "base", "network": {"httpsPorts": [443]}}',
    "lone surrogate": b'{"templateID": "base", "metadata": {"a": "\\ud800"}}',
}
_OWN = ("sandboxID", "envdAccessToken")


def same(answer: httpx.Response) -> tuple[int, Any]:
    """What must not depend on the way; ids and tokens are each sandbox's own."""
    assert answer.headers["x-request-id"]
    fields = answer.json()
    return answer.status_code, {name: value for name, value in fields.items() if name not in _OWN}


@pytest.mark.parametrize("path", ["/sandboxes", "/v2/sandboxes", "/cubeapi/v1/sandboxes"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_creates_are_answered_alike(api: httpx.AsyncClient, path: str, body: bytes) -> None:
    answers = [
        await api.post(path, content=body, headers={"content-type": kind}) for kind in ("application/json", LONG_WAY)
    ]
    assert same(answers[0]) == same(answers[1])


@pytest.mark.parametrize("failure", [HostError("no room"), LimitExceeded("too many", retry_after=3)], ids=repr)
async def test_failures_are_answered_alike(api: httpx.AsyncClient, master: Master, failure: Exception) -> None:
    master.node.failures["create"] = [failure, failure]
    answers = [
        await api.post("/sandboxes", content=BODIES["plain"], headers={"content-type": kind})
        for kind in ("application/json", LONG_WAY)
    ]
    assert same(answers[0]) == same(answers[1])
    assert answers[0].headers.get("retry-after") == answers[1].headers.get("retry-after")


async def test_what_nobody_expected_is_500_without_details(api: httpx.AsyncClient, master: Master) -> None:
    master.node.failures["create"] = [RuntimeError("secret")]
    answer = await api.post("/sandboxes", content=BODIES["plain"], headers={"content-type": "application/json"})
    assert answer.status_code == 500
    assert "secret" not in answer.text


@pytest.mark.parametrize("prefix", ["", "/cubeapi/v1"])
async def test_a_sandbox_is_ended_once(api: httpx.AsyncClient, prefix: str) -> None:
    created = await api.post("/sandboxes", json={"templateID": "base"})
    path = f"{prefix}/sandboxes/{created.json()['sandboxID']}"
    assert (await api.delete(path)).status_code == 204
    assert (await api.delete(path)).status_code == 404
    assert json.loads((await api.delete(path)).content)["code"] == 404


async def test_an_idempotency_key_is_heard(api: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json", "idempotency-key": "once"}
    answers = [await api.post("/sandboxes", content=BODIES["plain"], headers=headers) for _ in range(2)]
    assert answers[0].json()["sandboxID"] == answers[1].json()["sandboxID"]
