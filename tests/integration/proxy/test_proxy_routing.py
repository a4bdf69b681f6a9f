"""Which server answers which request, what it gets to see, and what clients read when nobody answers."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from cube.model.errors import InvalidInput
from cube.proxy.routes import Gone, Route

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]


def seen(response: Any) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return dict(json.loads(response.content))


def headers_of(response: Any) -> dict[str, str]:
    return dict(seen(response)["headers"])


async def test_everything_else_goes_to_the_api(door: Any) -> None:
    answer = seen(await door.client.post("/v1/sandboxes?x=1", json={}))
    assert (answer["server"], answer["method"], answer["path"]) == ("api", "POST", "/v1/sandboxes")


async def test_host_and_headers_reach_the_sandbox(door: Any, box: Any) -> None:
    by_host = await door.client.get("/a", headers=door.host(box.port, box.sandbox_id))
    assert seen(by_host)["server"] == "box"
    routing = {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": str(box.port)}
    assert seen(await door.client.get("/a", headers=routing))["server"] == "box"
    elsewhere = await door.client.get("/a", headers={**routing, "host": "other.example.org"})
    assert seen(elsewhere)["server"] == "api"


@pytest.mark.parametrize(("port", "service"), [(49983, "envd"), (49999, "interpreter")])
async def test_envd_and_interpreter_need_no_route(door: Any, port: int, service: str) -> None:
    for headers in (door.host(port, "new1"), {"E2b-Sandbox-Id": "new1-client", "E2b-Sandbox-Port": str(port)}):
        response = await door.client.get("/health", headers=headers)
        got = headers_of(response)
        assert seen(response)["server"] == "envd"
        assert (got["x-cube-sandbox-id"], got["x-cube-service"]) == ("new1", service)
    assert door.known.asked == []


async def test_signed_urls_reach_envd_without_an_id(door: Any) -> None:
    got = headers_of(await door.client.get("/files?path=a&signature=v1_x", headers={"X-Cube-Sandbox-Id": "victim"}))
    assert got["x-cube-service"] == "envd"
    assert "x-cube-sandbox-id" not in got


async def test_internal_paths_of_envd_are_hidden(door: Any) -> None:
    response = await door.client.post("/init", headers=door.host(49983, "new1"))
    assert (response.status_code, response.json()["message"]) == (404, "no such path")


LIES = {
    "x-cube-sandbox-id": "victim",
    "X-Cube-Anything": "1",
    "x-envoy-original-dst-host": "127.0.0.1:1",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-decorator-operation": "x",
    "x-forwarded-for": "6.6.6.6",
    "x-forwarded-host": "evil",
    "x-forwarded-proto": "https",
    "x-real-ip": "6.6.6.6",
    "forwarded": "for=6.6.6.6",
}


async def test_sandbox_sees_the_client_and_nothing_of_ours(door: Any, box: Any) -> None:
    host = door.host(box.port, box.sandbox_id)
    got = headers_of(await door.client.get("/", headers={**host, **LIES, "user-agent": "me", "x-mine": "1"}))
    expected = {**host, "user-agent": "me", "x-mine": "1", "accept": "*/*", "accept-encoding": got["accept-encoding"]}
    assert got == {**expected, "x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http"}


async def test_lies_do_not_reach_api_and_envd(door: Any) -> None:
    for headers in ({}, door.host(49983, "new1")):
        got = headers_of(await door.client.get("/", headers={**headers, **LIES}))
        kept = {name: value for name, value in got.items() if LIES.get(name) == value}
        assert kept == {}
        assert got["x-forwarded-for"] == "127.0.0.1"


async def test_path_is_left_alone(door: Any, box: Any) -> None:
    path = "/a//b/%2e%2E/c%2Fd/;x=1"
    reader, writer = await asyncio.open_connection("127.0.0.1", door.settings.port)
    host = door.host(box.port, box.sandbox_id)["host"]
    writer.write(f"GET {path}?q=%20 HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    body = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    assert json.dumps(path).encode() in body


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"E2b-Sandbox-Id": "abc"}, "missing header E2b-Sandbox-Port"),
        ({"E2b-Sandbox-Port": "80"}, "missing header E2b-Sandbox-Id"),
        ({"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "0"}, "1 to 65535"),
        ({"E2b-Sandbox-Id": "../api", "E2b-Sandbox-Port": "80"}, "sandbox id"),
        ({"host": "70000-abc.localhost"}, "1 to 65535"),
    ],
)
async def test_bad_addressing_is_a_400_with_words(door: Any, headers: dict[str, str], words: str) -> None:
    response = await door.client.get("/", headers=headers)
    assert response.status_code == 400
    assert response.json()["code"] == 400
    assert words in response.json()["message"]


async def test_two_routing_headers_of_one_name_are_refused(door: Any) -> None:
    headers = [("E2b-Sandbox-Id", "abc"), ("E2b-Sandbox-Id", "def"), ("E2b-Sandbox-Port", "80")]
    assert (await door.client.get("/", headers=headers)).status_code == 400


async def test_unknown_sandbox(door: Any) -> None:
    response = await door.client.get("/", headers=door.host(8080, "never"))
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"sandboxId": "never", "message": "The sandbox was not found", "code": 404}


async def test_ended_sandbox(door: Any) -> None:
    door.known.answers["ended"] = Gone("ended")
    response = await door.client.get("/", headers=door.host(8080, "ended"))
    assert response.status_code == 502
    assert response.json() == {"sandboxId": "ended", "message": "The sandbox was not found", "code": 502}


async def test_sandbox_that_only_the_directory_knows(door: Any, box: Any) -> None:
    door.known.answers["woken"] = Route("woken", box.address)
    assert seen(await door.client.get("/", headers=door.host(box.port, "woken")))["server"] == "box"


async def test_closed_port(door: Any, box: Any) -> None:
    with socket.socket() as unused:
        unused.bind((box.address, 0))
        port = unused.getsockname()[1]
        response = await door.client.get("/", headers=door.host(port, box.sandbox_id))
    assert response.status_code == 502
    message = "The sandbox is running but port is not open"
    assert response.json() == {"sandboxId": box.sandbox_id, "message": message, "port": port, "code": 502}


async def test_port_that_does_not_answer_the_connection(door: Any, box: Any) -> None:
    with socket.socket() as deaf, socket.socket() as first:
        deaf.bind((box.address, 0))
        deaf.listen(0)
        first.connect(deaf.getsockname())  # fills the backlog: further SYNs are dropped
        port = deaf.getsockname()[1]
        response = await door.client.get("/", headers=door.host(port, box.sandbox_id))
    assert (response.status_code, response.json()["port"]) == (502, port)
    assert "did not accept the connection in time" in response.json()["message"]


@pytest.mark.parametrize(
    ("answer", "words"), [(b"", "closed the connection"), (b"this is not HTTP\r\n\r\n", "did not answer in HTTP")]
)
async def test_service_that_speaks_no_http(door: Any, box: Any, answer: bytes, words: str) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(rude, box.address, 0) as server:
        port = server.sockets[0].getsockname()[1]
        response = await door.client.get("/", headers=door.host(port, box.sandbox_id))
    assert response.status_code == 502
    assert words in response.json()["message"]


async def test_unreadable_request_is_answered_in_json(door: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.settings.port)
    writer.write(b"complete nonsense\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["code"] == 400


async def test_route_outside_the_sandbox_network_is_refused(door: Any) -> None:
    with pytest.raises(InvalidInput):
        door.proxy.added(Route("evil", "127.0.0.1"))


async def test_removed_sandbox_is_not_reached(door: Any, box: Any) -> None:
    door.proxy.added(Route("brief", box.address))
    door.known.answers["brief"] = Gone("brief")
    assert (await door.client.get("/", headers=door.host(box.port, "brief"))).status_code == 200
    door.proxy.removed("brief")
    assert (await door.client.get("/", headers=door.host(box.port, "brief"))).status_code == 502


async def test_a_secured_sandbox_asks_for_its_token_and_does_not_see_it(door: Any, box: Any) -> None:
    door.proxy.added(Route("box2", box.address, "right"))
    host = door.host(box.port, "box2")
    for headers, words in (({}, "is missing"), ({"e2b-traffic-access-token": "wrong"}, "is invalid")):
        refused = await door.client.get("/", headers={**host, **headers})
        assert refused.status_code == 403
        assert (refused.json()["sandboxId"], refused.json()["code"]) == ("box2", 403)
        assert refused.json()["message"].endswith(words)
    got = headers_of(await door.client.get("/", headers={**host, "E2B-Traffic-Access-Token": "right"}))
    assert "e2b-traffic-access-token" not in got
    twice = [*host.items(), *[("e2b-traffic-access-token", "right")] * 2]
    assert (await door.client.get("/", headers=twice)).status_code == 403


async def test_a_lookup_carries_the_token(door: Any, box: Any) -> None:
    door.known.answers["shut"] = Route("shut", box.address, "right", "app.test")
    door.known.tokens["shut"] = "right"
    host = door.host(box.port, "shut")
    refused = await door.client.get("/", headers=host)
    assert (refused.status_code, refused.json()["message"]) == (403, "closed")
    got = headers_of(await door.client.get("/", headers={**host, "e2b-traffic-access-token": "right"}))
    assert got["host"] == "app.test"
    assert "e2b-traffic-access-token" not in got


async def test_the_host_is_masked(door: Any, box: Any) -> None:
    door.proxy.added(Route("box3", box.address, host="${PORT}.app.test:${PORT}"))
    got = headers_of(await door.client.get("/", headers=door.host(box.port, "box3")))
    assert got["host"] == f"{box.port}.app.test:{box.port}"
