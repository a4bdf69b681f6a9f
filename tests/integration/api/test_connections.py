"""What depends on real connections: clients that hang up, bursts, odd bytes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from support.api_server import ApiServer, running_api

CREATE = b'{"templateID":"base"}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    with running_api(tmp_path) as server:
        yield server


def connect(server: ApiServer) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port or 0), timeout=10)


def request(body: bytes, announced: int) -> bytes:
    lines = ["POST /v2/sandboxes HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {announced}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_client_that_hangs_up_during_create_leaves_nothing(server: ApiServer) -> None:
    async def close_gate() -> None:
        server.node.close_gate("create")

    server.run(close_gate)
    with connect(server) as client:
        client.sendall(request(CREATE, len(CREATE)))
        eventually(lambda: len(server.node.calls_of("create")) == 1)
    eventually(lambda: server.service.count() == 0)
    assert len(server.node.calls_of("destroy")) == 1
    assert httpx.get(f"{server.url}/health").json()["sandboxes"] == 0


def test_a_body_that_is_cut_off_creates_nothing(server: ApiServer) -> None:
    with connect(server) as client:
        client.sendall(request(CREATE, len(CREATE) + 1))
    assert httpx.get(f"{server.url}/health").json()["sandboxes"] == 0
    assert server.node.calls == []


def test_a_burst_is_queued_and_all_of_it_is_served(server: ApiServer) -> None:
    async def burst() -> list[int]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=30) as client:
            calls = [client.post("/v2/sandboxes", content=CREATE, headers=json_type) for _ in range(100)]
            return [answer.status_code for answer in await asyncio.gather(*calls)]

    json_type = {"Content-Type": "application/json"}
    assert asyncio.run(burst()) == [201] * 100
    assert len(server.node.alive) == 100


def test_a_full_node_says_when_to_come_back(tmp_path: Path) -> None:
    with running_api(tmp_path / "small", max_sandboxes=1) as server:
        first, second = [httpx.post(f"{server.url}/sandboxes", json={"templateID": "base"}) for _ in range(2)]
        assert (first.status_code, second.status_code) == (201, 429)
        assert int(second.headers["retry-after"]) > 0
        assert second.headers["should-retry"] == "true"
        httpx.delete(f"{server.url}/sandboxes/{first.json()['sandboxID']}")
        assert httpx.post(f"{server.url}/sandboxes", json={"templateID": "base"}).status_code == 201


def test_sandboxes_outlive_the_server(tmp_path: Path) -> None:
    with running_api(tmp_path / "state") as server:
        created = httpx.post(f"{server.url}/v2/sandboxes", json={"templateID": "base", "envVars": {"A": "1"}}).json()
        node = server.node
    with running_api(tmp_path / "state", node=node) as server:
        connected = httpx.post(f"{server.url}/v2/sandboxes/{created['sandboxID']}/connect", json={})
        assert (connected.status_code, connected.json()) == (200, created)
        assert server.node.specs[created["sandboxID"]].env_vars == {"A": "1"}
