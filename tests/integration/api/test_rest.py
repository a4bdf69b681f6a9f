"""The routes, over HTTP, with a real database behind them."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import httpx
import pytest

from cube.model.errors import HostError, LimitExceeded, Unavailable
from support.master import Master, eventually, settle

UNKNOWN = "i0000000000000000000"
MALFORMED = ["..", "%2e%2e", "A", "a-b", "é", "%00", "x" * 5000, "a%2Fb"]


async def create(api: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await api.post("/v2/sandboxes", json={"templateID": "base", **fields})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def error(answer: httpx.Response) -> tuple[int, str]:
    """Code and message, which have to be all there is."""
    body = answer.json()
    assert set(body) == {"code", "message"}
    assert body["code"] == answer.status_code
    assert answer.headers["content-type"] == "application/json"
    return body["code"], body["message"]


async def test_create_answers_with_what_a_client_needs(api: httpx.AsyncClient, master: Master) -> None:
    body = await create(api, metadata={"a": "b"})
    token = body.pop("envdAccessToken")
    assert token == master.node.specs[body["sandboxID"]].envd_access_token
    assert body == {
        "templateID": "tpl-base",
        "alias": "base",
        "sandboxID": next(iter(master.node.alive)),
        "clientID": "cube",
        "envdVersion": "0.6.13",
        "runtime": "fake",
        "isolation": "none",
        "domain": "localhost:3000",
    }


@pytest.mark.parametrize(
    ("path", "seconds"), [("/sandboxes", 15), ("/v2/sandboxes", 300), ("/cubeapi/v1/sandboxes", 15)]
)
async def test_default_timeouts(api: httpx.AsyncClient, path: str, seconds: int) -> None:
    created = await api.post(path, json={"templateID": "base"})
    assert created.status_code == 201
    detail = (await api.get(f"/sandboxes/{created.json()['sandboxID']}")).json()
    lived = datetime.fromisoformat(detail["endAt"]) - datetime.fromisoformat(detail["startedAt"])
    assert lived.total_seconds() == seconds


async def test_detail(api: httpx.AsyncClient) -> None:
    created = await create(api, autoPause=True, autoResume={"enabled": True}, metadata={"a": "b"}, timeout=60)
    assert (await api.get(f"/sandboxes/{created['sandboxID']}")).json() == {
        **created,
        "startedAt": "2026-06-01T12:00:00Z",
        "endAt": "2026-06-01T12:01:00Z",
        "cpuCount": 1,
        "memoryMB": 256,
        "diskSizeMB": 5120,
        "metadata": {"a": "b"},
        "state": "running",
        "lifecycle": {"autoResume": True, "onTimeout": "pause"},
    }


async def test_listing_shows_no_secrets(api: httpx.AsyncClient) -> None:
    created = await create(api, envVars={"PASSWORD": "hunter2"})
    for path in ("/sandboxes", "/v2/sandboxes"):
        answer = await api.get(path)
        assert [entry["sandboxID"] for entry in answer.json()] == [created["sandboxID"]]
        assert created["envdAccessToken"] not in answer.text
        assert "hunter2" not in answer.text


async def test_listing_by_pages(api: httpx.AsyncClient, master: Master) -> None:
    created = []
    for _ in range(5):
        created.append((await create(api))["sandboxID"])
        master.clock.advance(1)
    found, token = [], ""
    while True:
        answer = await api.get("/v2/sandboxes", params={"limit": 2, "nextToken": token})
        found += [entry["sandboxID"] for entry in answer.json()]
        token = answer.headers.get("x-next-token", "")
        if not token:
            break
    assert found == created[::-1]
    ascending = await api.get("/v2/sandboxes?order=asc")
    assert [entry["sandboxID"] for entry in ascending.json()] == created


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("state=killed", "state"),
        ("order=up", "order"),
        ("startedAfter=yesterday", "startedAfter"),
        ("startedAfter=2026-01-01T00:00:00", "startedAfter"),
        ("nextToken=nonsense", "nextToken"),
        ("template=" + "x" * 401, "template"),
    ],
)
async def test_a_malformed_query_names_its_parameter(api: httpx.AsyncClient, query: str, name: str) -> None:
    code, message = error(await api.get(f"/v2/sandboxes?{query}"))
    assert code == 400
    assert name in message


async def test_started_after_any_date_there_is(api: httpx.AsyncClient) -> None:
    await create(api)
    for moment, number in (("0001-01-01T00:00:00%2B14:00", 1), ("9999-12-31T23:59:59-14:00", 0)):
        answer = await api.get(f"/v2/sandboxes?startedAfter={moment}")
        assert (answer.status_code, len(answer.json())) == (200, number)


async def test_life(api: httpx.AsyncClient, master: Master) -> None:
    path = f"/sandboxes/{(await create(api))['sandboxID']}"
    for step, body, code in (
        ("/timeout", {"timeout": 100}, 204),
        ("/refreshes", {"duration": 100}, 204),
        ("/refreshes", None, 204),
        ("/connect", {"timeout": 1}, 200),
        ("/resume", {}, 409),
        ("/pause", None, 204),
        ("/pause", {}, 409),
        ("/timeout", {"timeout": 1}, 409),
        ("/connect", {}, 201),
        ("/pause", {"memory": True, "requireHealthyGuest": True}, 204),
        ("/resume", {"timeout": 5, "autoPause": True}, 201),
    ):
        answer = await api.post(path + step, json=body)
        assert answer.status_code == code, (step, answer.text)
    detail = (await api.get(path)).json()
    assert (detail["state"], detail["lifecycle"]["onTimeout"]) == ("running", "pause")
    assert (await api.delete(path)).status_code == 204
    assert error(await api.delete(path))[0] == 404
    assert master.node.alive == {}


async def test_connect_of_both_versions_returns_the_same_token(api: httpx.AsyncClient) -> None:
    created = await create(api)
    for prefix in ("", "/v2", "/cubeapi/v1", "/cubeapi/v1/v2"):
        await api.post(f"/sandboxes/{created['sandboxID']}/pause")
        answer = await api.post(f"{prefix}/sandboxes/{created['sandboxID']}/connect", json={})
        assert answer.status_code == 201
        assert answer.json() == created


@pytest.mark.parametrize("sandbox_id", [UNKNOWN, *MALFORMED])
async def test_an_id_of_nobody_is_not_found(api: httpx.AsyncClient, sandbox_id: str) -> None:
    for method, step, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/timeout", {"timeout": 1}),
        ("POST", "/refreshes", {}),
        ("POST", "/connect", {}),
        ("POST", "/pause", {}),
        ("POST", "/resume", {}),
        ("POST", "/snapshots", {}),
        ("POST", "/rollback", {"snapshotID": "snap-1"}),
        ("POST", "/fork", {}),
        ("GET", "/metrics", None),
    ):
        answer = await api.request(method, f"/sandboxes/{sandbox_id}{step}", json=body)
        code, message = error(answer)
        assert code in (404, 405)
        assert len(message) < 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "templateID|body"),
        (b"{", "not JSON"),
        (b"[]", "body"),
        (b"null", "body"),
        (b'"x"', "body"),
        (b"{}", "templateID"),
        (b"\xff\xfe", "body"),
        (b'{"templateID":"base","metadata":{"a":"\\ud800"}}', "metadata"),
        (b'{"templateID":"base","timeout":' + b"9" * 5000 + b"}", "body"),
        (b'{"templateID":"base","mcp":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "body"),
        (b'{"templateID":"base","timeout":NaN}', "timeout"),
        (b'{"templateID":"base","timeout":-5}', "timeout"),
        (b'{"templateID":"base","timeout":100000}', "timeout"),
        (b'{"templateID":"../../etc"}', "templateID"),
    ],
)
async def test_a_malformed_create_says_what_is_wrong(
    api: httpx.AsyncClient, master: Master, content: bytes, message: str
) -> None:
    answer = await api.post("/sandboxes", content=content, headers={"Content-Type": "application/json"})
    code, text = error(answer)
    assert code == 400
    assert any(word in text for word in message.split("|")), text
    assert len(text) < 1000
    assert master.node.calls == []


async def test_a_body_that_is_not_called_json_is_refused(api: httpx.AsyncClient) -> None:
    """Web pages cannot send JSON to other places unasked, but they can send text: that must not create sandboxes."""
    answer = await api.post("/sandboxes", content=b'{"templateID":"base"}', headers={"Content-Type": "text/plain"})
    assert error(answer)[0] == 400
    assert "application/json" in error(answer)[1]


async def test_a_body_that_is_too_large(api: httpx.AsyncClient) -> None:
    answer = await api.post("/sandboxes", json={"templateID": "base", "metadata": {"a": "x" * 2_000_000}})
    assert error(answer)[0] == 413


async def test_unknown_templates_and_unsupported_wishes(api: httpx.AsyncClient) -> None:
    assert error(await api.post("/sandboxes", json={"templateID": "nope"}))[0] == 404
    code, message = error(await api.post("/sandboxes", json={"templateID": "base", "network": {"httpsPorts": [1]}}))
    assert (code, "network.httpsPorts" in message) == (501, True)


@pytest.mark.parametrize(
    ("failure", "code", "headers"),
    [
        (LimitExceeded("full", retry_after=7), 429, {"retry-after": "7", "should-retry": "true"}),
        (Unavailable("later"), 503, {"retry-after": "1", "should-retry": "true"}),
        (Unavailable("never", retry_after=None), 503, {"should-retry": "false"}),
        (HostError("mount: EPERM"), 500, {}),
    ],
)
async def test_failures_of_the_node(
    api: httpx.AsyncClient, master: Master, failure: Exception, code: int, headers: dict[str, str]
) -> None:
    master.node.fail("create", failure)
    answer = await api.post("/sandboxes", json={"templateID": "base"})
    assert error(answer)[0] == code
    found = {name: answer.headers[name] for name in ("retry-after", "should-retry") if name in answer.headers}
    assert found == headers


async def test_a_defect_is_a_500_without_details(api: httpx.AsyncClient, master: Master) -> None:
    master.node.fail("create", KeyError("inner secret"))
    answer = await api.post("/sandboxes", json={"templateID": "base"})
    assert error(answer)[0] == 500
    assert "inner secret" not in answer.text


async def test_unknown_routes_and_methods(api: httpx.AsyncClient) -> None:
    for path in ("/nope", "/sandboxes/", "/snapshots/x", "/volume", "/cubeapi/v1", "/cubeapi/v2/sandboxes"):
        assert error(await api.get(path))[0] == 404, path
    answer = await api.put("/sandboxes")
    assert error(answer)[0] == 405


async def test_health(api: httpx.AsyncClient) -> None:
    await create(api)
    for path in ("/health", "/cubeapi/v1/health"):
        assert (await api.get(path)).json() == {"status": "ok", "sandboxes": 1}


async def test_metrics(api: httpx.AsyncClient, master: Master) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    master.clock.advance(10)
    master.node.cpu_seconds = 5
    (metric,) = (await api.get(f"/sandboxes/{sandbox_id}/metrics")).json()
    assert metric == {
        "timestamp": "2026-06-01T12:00:10Z",
        "timestampUnix": 1780315210,
        "cpuCount": 1,
        "cpuUsedPct": 50.0,
        "memUsed": 1 << 20,
        "memTotal": 256 << 20,
        "memCache": 0,
        "diskUsed": 4096,
        "diskTotal": 5120 << 20,
    }
    many = await api.get(f"/sandboxes/metrics?sandbox_ids={sandbox_id},{UNKNOWN}")
    assert many.json() == {"sandboxes": {sandbox_id: metric}}
    assert (await api.get(f"/sandboxes/{sandbox_id}/metrics?start=1780315211")).json() == []
    assert error(await api.get("/sandboxes/metrics"))[0] == 400
    assert error(await api.get(f"/sandboxes/metrics?sandbox_ids={','.join(['x'] * 101)}"))[0] == 400


async def test_templates(api: httpx.AsyncClient) -> None:
    listed = (await api.get("/templates")).json()
    assert [template["templateID"] for template in listed] == ["tpl-code", "tpl-base"]
    assert listed == (await api.get("/v2/templates")).json()
    code = (await api.get("/templates/tpl-code")).json()
    assert {key: code[key] for key in listed[0]} == listed[0]
    assert (code["createdBy"], code["builds"][0]["status"]) == (None, "ready")
    assert (await api.get("/templates/team%2Fcode%3Av2")).json() == code
    assert (await api.get("/templates/aliases/base")).json() == {"templateID": "tpl-base", "public": True}
    for path in ("/templates/nope", "/templates/..%2F..", "/templates/aliases/tpl-base", "/templates/aliases/nope"):
        assert error(await api.get(path))[0] == 404


async def test_a_client_that_leaves_while_it_waits_leaves_nothing(api: httpx.AsyncClient, master: Master) -> None:
    """Over ASGI as uvicorn speaks it: ``http.disconnect`` arrives while the sandbox is being created."""
    app = api._transport.app  # type: ignore[attr-defined]
    master.node.close_gate("create")
    gone, sent = asyncio.Event(), list[Any]()
    body = b'{"templateID":"base"}'
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        for message in messages:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v2/sandboxes",
        "raw_path": b"/v2/sandboxes",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
    }
    request = asyncio.create_task(app(scope, receive, send))
    await master.node.called("create")
    gone.set()
    await request
    await eventually(lambda: master.service.count() == 0)
    await settle()
    assert len(master.node.calls_of("destroy")) == 1
    assert sent[0]["status"] == 499
