from __future__ import annotations

from typing import Any

import httpx
import pytest

from cube.envd.asgi import Receive, Scope, Send, respond
from cube.envd.traffic import HEADER, TrafficGate

TOKENS = {"closed": "right", "open": None}


async def inside(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, 200, b"inside")


async def ask(sandbox_id: str, **headers: str) -> httpx.Response:
    app: Any = TrafficGate(inside, TOKENS.get)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        return await client.get("/", headers={"x-cube-sandbox-id": sandbox_id, **headers})


@pytest.mark.parametrize("sandbox_id", ["open", "unknown"])
async def test_open_ones_ask_for_nothing(sandbox_id: str) -> None:
    assert (await ask(sandbox_id)).text == "inside"


async def test_the_token_opens() -> None:
    assert (await ask("closed", **{HEADER: "right"})).text == "inside"


@pytest.mark.parametrize(
    ("headers", "words"), [({}, "missing"), ({HEADER: "wrong"}, "invalid"), ({HEADER: ""}, "missing")]
)
async def test_anything_else_does_not(headers: dict[str, str], words: str) -> None:
    answer = await ask("closed", **headers)
    assert answer.status_code == 403
    assert answer.json()["sandboxId"] == "closed"
    assert answer.json()["code"] == 403
    assert answer.json()["message"].endswith(f"is {words}")


async def test_a_token_of_odd_bytes_is_only_wrong() -> None:
    app: Any = TrafficGate(inside, TOKENS.get)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        headers = [(b"x-cube-sandbox-id", b"closed"), (HEADER.encode(), b"\xff\xfe")]
        assert (await client.get("/", headers=headers)).status_code == 403
