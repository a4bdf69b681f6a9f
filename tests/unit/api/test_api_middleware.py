from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cube.api.authentication import Authentication
from cube.api.authority import StaticKey
from cube.api.middleware import BodyLimit, RequestIds

KEY = "e2b_0123456789abcdef"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the number of bytes of the body."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cube")


def guarded() -> httpx.AsyncClient:
    return client(Authentication(echo, authority=StaticKey(KEY), open_paths=frozenset({"/health"})))


@pytest.mark.parametrize(
    "headers", [{"X-API-KEY": KEY}, {"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}]
)
async def test_the_key_opens(headers: dict[str, str]) -> None:
    assert (await guarded().get("/sandboxes", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-KEY": ""},
        {"X-API-KEY": KEY[:-1]},
        {"X-API-KEY": KEY + "0"},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer wrong", "X-API-KEY": KEY},
    ],
)
async def test_anything_else_does_not(headers: dict[str, str]) -> None:
    answer = await guarded().get("/sandboxes", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["code"] == 401
    assert KEY not in answer.text


async def test_a_key_of_odd_bytes_is_only_wrong() -> None:
    answer = await guarded().get("/sandboxes", headers=[(b"x-api-key", b"\xff\xfe")])
    assert answer.status_code == 401


async def test_health_is_open_and_nothing_that_looks_like_it() -> None:
    assert (await guarded().get("/health")).status_code == 200
    for path in ("/health/", "//health", "/health/../sandboxes", "/HEALTH"):
        assert (await guarded().get(path)).status_code == 401, path


async def chunks(number: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(number):
        yield b"x" * size


async def test_bodies_up_to_the_limit_pass() -> None:
    limited = client(BodyLimit(echo, limit=100))
    assert (await limited.post("/", content=b"x" * 100)).text == "100"
    assert (await limited.post("/", content=chunks(10, 10))).text == "100"


async def test_an_announced_body_beyond_the_limit_is_refused_unread() -> None:
    async def untouched(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("was called")

    answer = await client(BodyLimit(untouched, limit=100)).post("/", content=b"x" * 101)
    assert (answer.status_code, answer.json()["code"]) == (413, 413)


async def test_a_chunked_body_beyond_the_limit_is_cut_off() -> None:
    from starlette.applications import Starlette
    from starlette.routing import Route

    async def endpoint(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    answer = await client(BodyLimit(app, limit=100)).post("/", content=chunks(11, 10))
    assert answer.status_code == 413


async def test_a_length_that_is_none_is_left_to_the_server() -> None:
    answer = await client(BodyLimit(echo, limit=100)).post("/", content=b"x", headers={"content-length": "9" * 30})
    assert answer.text == "1"


async def test_a_usable_request_id_is_kept() -> None:
    answer = await client(RequestIds(echo)).get("/", headers={"X-Request-Id": "abc-1.2_3"})
    assert answer.headers.get_list("x-request-id") == ["abc-1.2_3"]


@pytest.mark.parametrize("offered", ["", "a b", "x" * 129, "a;b", "é"])
async def test_any_other_is_replaced(offered: str) -> None:
    answer = await client(RequestIds(echo)).get("/", headers=[(b"x-request-id", offered.encode("latin-1"))])
    assert len(answer.headers["x-request-id"]) == 16
    assert answer.headers["x-request-id"] != offered


async def test_a_crash_is_answered_without_its_reason_and_logged_with_it() -> None:
    from structlog.testing import capture_logs

    async def crash(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("inner secret")

    with capture_logs() as logs:
        answer = await client(RequestIds(crash)).get("/somewhere", headers={"X-Request-Id": "abc"})
    assert (answer.status_code, answer.json()["code"]) == (500, 500)
    assert "inner secret" not in answer.text
    assert answer.headers["x-request-id"] == "abc"
    assert [(log["event"], log["path"]) for log in logs] == [("api.crashed", "/somewhere")]
