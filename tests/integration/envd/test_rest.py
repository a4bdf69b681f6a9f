"""Routing, authorization, and the small resources."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from cube.envd import rest
from cube.envd.app import create_envd_app
from cube.envd.sandboxes import EnvdSandbox
from support.connect_rpc import RpcClient
from support.envd_server import TOKEN, EnvdServer, Sandboxes, make_sandbox
from support.local_guest import LocalGuest

GONE = {"sandboxId": "i9", "message": "The sandbox was not found", "code": 502}


def test_health(server: EnvdServer) -> None:
    assert httpx.get(f"{server.url}/health", headers={"E2b-Sandbox-Id": "i1"}).status_code == 204


def test_a_sandbox_that_does_not_answer_is_not_healthy(
    server: EnvdServer, guest: LocalGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(rest, "PING_LIMIT", 0.05)
    monkeypatch.setattr(guest, "ping", hang)
    assert httpx.get(f"{server.url}/health", headers={"E2b-Sandbox-Id": "i1"}).status_code == 502


@pytest.mark.parametrize("path", ["/health", "/files?path=x", "/process.Process/List", "/nonsense"])
def test_an_unknown_sandbox(server: EnvdServer, path: str) -> None:
    answer = httpx.get(f"{server.url}{path}", headers={"E2b-Sandbox-Id": "i9"})
    assert (answer.status_code, answer.json()) == (404, GONE | {"code": 404})


def test_a_paused_sandbox(server: EnvdServer, rpc: RpcClient) -> None:
    server.sandboxes.paused.add("i1")
    for answer in (rpc.http.get("/health"), rpc.unary("process.Process/List", {})):
        assert (answer.status_code, answer.json()) == (502, GONE | {"sandboxId": "i1"})


def test_no_sandbox_at_all(server: EnvdServer) -> None:
    assert httpx.get(f"{server.url}/health").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"),
        ("GET", "/envs"),
        ("POST", "/files/compose"),
        ("POST", "/process.Process/List"),
        ("POST", "/filesystem.Filesystem/Stat"),
        ("GET", "/nonsense"),
        ("POST", "/init"),
    ],
)
@pytest.mark.parametrize("token", [None, "", "wrong"])
def test_everything_else_needs_the_token(server: EnvdServer, method: str, path: str, token: str | None) -> None:
    headers = {"E2b-Sandbox-Id": "i1"} | ({} if token is None else {"X-Access-Token": token})
    answer = httpx.request(method, server.url + path, headers=headers)
    assert answer.status_code == answer.json()["code"] == 401
    assert answer.json()["message"].startswith("unauthorized access")


def test_what_does_not_exist(rpc: RpcClient) -> None:
    for method, path in (("GET", "/nonsense"), ("POST", "/health"), ("DELETE", "/files"), ("POST", "/freeze")):
        answer = rpc.http.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (404, 404)


def test_init_is_not_for_the_public(rpc: RpcClient, sandbox: EnvdSandbox) -> None:
    assert rpc.http.post("/init", json={"accessToken": "mine now"}).status_code == 404
    assert sandbox.access_token == TOKEN


def test_envs(rpc: RpcClient, sandbox: EnvdSandbox) -> None:
    sandbox.env_vars["A"] = "1"
    assert rpc.http.get("/envs").json() == {"A": "1"}


def test_metrics(rpc: RpcClient) -> None:
    first, second = rpc.http.get("/metrics").json(), rpc.http.get("/metrics").json()
    assert set(first) == {
        "ts", "cpu_count", "cpu_used_pct", "mem_total", "mem_used", "mem_cache",
        "mem_total_mib", "mem_used_mib", "disk_used", "disk_total",
    }  # fmt: skip
    assert 0 < first["cpu_used_pct"] <= 100
    assert second["cpu_used_pct"] > 0
    assert (second["mem_used"], second["mem_used_mib"], second["mem_cache"]) == (2 * 1024 * 1024, 2, 1024 * 1024)
    assert (second["cpu_count"], second["mem_total_mib"], second["disk_used"]) == (2, 1024, 4096)


class TestInternalInit:
    """The application as the orchestrator of a microVM reaches it."""

    @pytest.fixture
    def known(self, tmp_path: Path) -> EnvdSandbox:
        return make_sandbox(LocalGuest(tmp_path))

    async def post(self, sandbox: EnvdSandbox, body: Any) -> httpx.Response:
        sandboxes = Sandboxes()
        sandboxes.add(sandbox)
        transport = httpx.ASGITransport(app=create_envd_app(sandboxes, internal=True))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://envd") as client:
            return await client.post("/init", content=body, headers={"X-Cube-Sandbox-Id": "i1"})

    async def test_it_sets_what_is_given(self, known: EnvdSandbox) -> None:
        known.env_vars["OLD"] = "1"
        body = b'{"accessToken":"t","envVars":{"NEW":"2"},"defaultUser":"root","defaultWorkdir":"/w","timestamp":"x"}'
        assert (await self.post(known, body)).status_code == 204
        assert (known.access_token, known.default_user, known.default_workdir) == ("t", "root", "/w")
        assert known.env_vars == {"OLD": "1", "NEW": "2"}

    async def test_it_leaves_the_rest(self, known: EnvdSandbox) -> None:
        assert (await self.post(known, b"")).status_code == 204
        assert (known.access_token, known.default_user) == (TOKEN, "user")

    @pytest.mark.parametrize("body", [b"[]", b"{", b'{"accessToken":1}', b'{"envVars":[1]}', b'{"envVars":{"A":1}}'])
    async def test_nonsense_is_refused(self, known: EnvdSandbox, body: bytes) -> None:
        assert (await self.post(known, body)).status_code == 400
        assert known.access_token == TOKEN
