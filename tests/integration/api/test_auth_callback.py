"""``CUBE_AUTH_CALLBACK_URL``: a real server is asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn

from cube.api import authority as module
from cube.api.app import create_api
from cube.api.authority import authority
from cube.settings import Settings
from support.master import Master


@dataclass
class Judge:
    """Admits the credential ``good``; counts and remembers what it was asked."""

    asked: list[dict[bytes, bytes]] = field(default_factory=list)
    #: Answers wait while this is not set.
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    status: int = 200

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        self.asked.append({**headers, b"method": scope["method"].encode()})
        await self.gate.wait()
        good = headers.get(b"x-api-key") == b"good" or headers.get(b"authorization") == b"Bearer good"
        status = self.status if good else 403
        await send({"type": "http.response.start", "status": status, "headers": [(b"location", b"/other")]})
        await send({"type": "http.response.body", "body": b"x" * 100_000})


@asynccontextmanager
async def listening(judge: Judge) -> AsyncIterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(judge, lifespan="off", log_level="error"))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/check"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def guarded(master: Master, url: str, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings.model_validate({"auth_callback_url": url, **more})
    async with authority(settings) as who:
        transport = httpx.ASGITransport(create_api(master.service, settings, who))
        async with httpx.AsyncClient(transport=transport, base_url="http://cube") as client:
            yield client


@pytest.fixture
async def judge() -> Judge:
    judge = Judge()
    judge.gate.set()
    return judge


@pytest.fixture
async def url(judge: Judge) -> AsyncIterator[str]:
    async with listening(judge) as url:
        yield url


@pytest.mark.parametrize(
    ("sent", "name", "value"),
    [
        ({"X-API-KEY": "good"}, b"x-api-key", b"good"),
        ({"Authorization": "Bearer good"}, b"authorization", b"Bearer good"),
        ({"Authorization": "Bearer good", "X-API-KEY": "bad"}, b"authorization", b"Bearer good"),
    ],
)
async def test_the_credential_and_the_path_are_forwarded(
    master: Master, judge: Judge, url: str, sent: dict[str, str], name: bytes, value: bytes
) -> None:
    async with guarded(master, url) as api:
        assert (await api.get("/sandboxes?metadata=a", headers=sent)).status_code == 200
    (asked,) = judge.asked
    assert (asked[b"method"], asked[b"x-request-path"], asked[name]) == (b"POST", b"/sandboxes", value)
    assert (b"x-api-key" in asked) + (b"authorization" in asked) == 1


@pytest.mark.parametrize("status", [201, 204, 302, 401, 500])
async def test_everything_but_200_refuses(master: Master, judge: Judge, url: str, status: int) -> None:
    judge.status = status
    async with guarded(master, url) as api:
        answer = await api.get("/sandboxes", headers={"X-API-KEY": "good"})
        assert (answer.status_code, answer.json()["code"]) == (401, 401)
    assert len(judge.asked) == 1


async def test_a_missing_credential_is_refused_unasked_and_health_is_open(
    master: Master, judge: Judge, url: str
) -> None:
    async with guarded(master, url) as api:
        for headers in ({}, {"X-API-KEY": ""}, {"Authorization": "Basic good"}):
            assert (await api.get("/sandboxes", headers=headers)).status_code == 401
        assert (await api.get("/health")).status_code == 200
    assert judge.asked == []


async def test_answers_are_remembered_by_credential_and_path(master: Master, judge: Judge, url: str) -> None:
    async with guarded(master, url) as api:
        for _ in range(3):
            assert (await api.get("/sandboxes", headers={"X-API-KEY": "good"})).status_code == 200
            assert (await api.get("/sandboxes", headers={"X-API-KEY": "bad"})).status_code == 401
        await api.get("/templates", headers={"X-API-KEY": "good"})
    assert len(judge.asked) == 3


async def test_a_burst_asks_once(master: Master, judge: Judge, url: str) -> None:
    judge.gate.clear()
    async with guarded(master, url) as api:
        burst = [asyncio.create_task(api.get("/sandboxes", headers={"X-API-KEY": "good"})) for _ in range(20)]
        while not judge.asked:  # noqa: ASYNC110  the server has no event for it
            await asyncio.sleep(0.005)
        judge.gate.set()
        assert {answer.status_code for answer in await asyncio.gather(*burst)} == {200}
    assert len(judge.asked) == 1


async def test_an_unreachable_callback_is_a_500_and_not_remembered(master: Master, judge: Judge) -> None:
    async with listening(judge) as url:
        pass
    async with guarded(master, url) as api:
        for _ in range(2):
            answer = await api.get("/sandboxes", headers={"X-API-KEY": "good"})
            assert (answer.status_code, "authentication" in answer.json()["message"]) == (500, True)


async def test_a_callback_that_hangs_holds_nobody_for_long(
    master: Master, judge: Judge, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.2)
    judge.gate.clear()
    async with guarded(master, url) as api, asyncio.timeout(2):
        burst = [api.get("/sandboxes", headers={"X-API-KEY": "good"}) for _ in range(10)]
        assert {answer.status_code for answer in await asyncio.gather(*burst)} == {500}
    judge.gate.set()


async def test_odd_bytes_reach_the_callback_as_they_are(master: Master, judge: Judge, url: str) -> None:
    async with guarded(master, url) as api:
        assert (await api.get("/a%0d%0aX-API-Key:%20good", headers=[(b"x-api-key", b"\xff\xfe")])).status_code == 401
    (asked,) = judge.asked
    assert (asked[b"x-request-path"], asked[b"x-api-key"]) == (b"/a%0d%0aX-API-Key:%20good", b"\xff\xfe")


async def test_the_static_key_needs_no_callback(master: Master, judge: Judge, url: str) -> None:
    async with guarded(master, url, api_key="e2b_00") as api:
        assert (await api.get("/sandboxes", headers={"X-API-KEY": "e2b_00"})).status_code == 200
        assert judge.asked == []
        assert (await api.get("/sandboxes", headers={"X-API-KEY": "good"})).status_code == 200


async def test_the_rate_limit_is_per_credential(master: Master, url: str) -> None:
    async with guarded(master, url, rate_limit=3) as api:
        # At once: on a slow machine one after the other would be within the rate.
        answers = await asyncio.gather(*(api.get("/sandboxes", headers={"X-API-KEY": "good"}) for _ in range(40)))
        assert {answer.status_code for answer in answers} == {200, 429}
        assert (await api.get("/sandboxes", headers={"Authorization": "Bearer bad"})).status_code == 401
