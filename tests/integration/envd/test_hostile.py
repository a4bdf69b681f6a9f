"""Malformed and malicious requests: every one gets an answer that blames the client, and the next request works."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from cube.envd.rpc import _STREAMS, _UNARY, MESSAGE_LIMIT
from support.connect_rpc import RpcClient, envelope
from support.envd_server import TOKEN, EnvdServer, Sandboxes, make_sandbox, serve
from support.local_guest import LocalGuest

JSON = "application/json"
CONNECT_JSON = "application/connect+json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvdServer]:
    """One for all of them: what one breaks, the next shows."""
    guest = LocalGuest(tmp_path_factory.mktemp("home"))
    sandboxes = Sandboxes()
    sandboxes.add(make_sandbox(guest))
    with serve(sandboxes) as running:
        yield running
    guest.kill_all()


@pytest.fixture(scope="module")
def session(server: EnvdServer) -> RpcClient:
    return RpcClient(server.url, token=TOKEN)


@pytest.fixture
def rpc(session: RpcClient) -> Iterator[RpcClient]:
    """After every test the server must still answer."""
    yield session
    assert session.unary("process.Process/List", {}).status_code == 200


def post(rpc: RpcClient, path: str, content: bytes, content_type: str, **headers: str) -> Any:
    fields = {"Content-Type": content_type} | {name.replace("_", "-"): value for name, value in headers.items()}
    return rpc.http.post(path, content=content, headers=fields)


def error_of(content: bytes) -> dict[str, Any]:
    """The error in the last frame of a stream."""
    assert content[0] & 2, content
    assert int.from_bytes(content[1:5], "big") == len(content) - 5
    return dict(json.loads(content[5:])["error"])


BAD_JSON = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe",
    b'{"process": 5}',
    b'{"process": {"pid": -1}}',
    b'{"process": {"pid": 4294967296}}',
    b'{"process": {"pid": "x"}}',
    b'{"process": {"pid": 1, "tag": "both"}}',
    b'{"process": {"tag": "\\ud800"}}',
    b'{"process": {"tag": "\xc3\x28"}}',
    b'{"signal": "SIGNAL_NOTHING"}',
    b'{"input": {"stdin": "not base64 !!"}}',
    b'{"input": {"stdin": 5}}',
    b"[" * 100_000,
    b"[" * 300 + b"]" * 300,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"process": {"envs": {"a": ' + b"[" * 100_000,
    b'{"process": {"args": [' + b'{"a":' * 100_000,
    b'{"signal": ' + b"[" * 100_000,
    b'{"path": ' + b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"process": {"pid": 1e400}}',
    b'{"process": ' + b"9" * 10_000 + b"}",
]


@pytest.mark.parametrize("path", sorted(_UNARY))
@pytest.mark.parametrize("body", BAD_JSON, ids=lambda body: repr(body[:30]))
def test_unary_methods_take_any_body(rpc: RpcClient, path: str, body: bytes) -> None:
    answer = post(rpc, path, body, JSON)
    assert answer.status_code < 500, answer.text
    assert answer.status_code == 200 or answer.json()["code"]


@pytest.mark.parametrize("path", sorted(_STREAMS))
@pytest.mark.parametrize("body", BAD_JSON, ids=lambda body: repr(body[:30]))
def test_streams_take_any_message(rpc: RpcClient, path: str, body: bytes) -> None:
    if path.endswith("WatchDir") and body.startswith((b'{"p', b'{"s', b'{"i', b"{}")):
        body = b"!" + body  # unknown fields are allowed, and the stream would watch the home directory for ever
    answer = post(rpc, path, envelope(body), CONNECT_JSON)
    assert answer.status_code == 200
    if not path.endswith("StreamInput"):
        assert error_of(answer.content)["code"] in ("invalid_argument", "not_found")


@pytest.mark.parametrize("path", sorted(_STREAMS))
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"\0\0\0\0",
        b"\0\0\0\0\x05abc",
        b"\0\xff\xff\xff\xff",
        b"\0\x7f\xff\xff\xffabc",
        envelope({}) + b"\0\xff\xff\xff\xff",
        b"\x01" + envelope({})[1:],
        b"\xff" * 100,
        envelope({}) * 3,
    ],
    ids=repr,
)
def test_broken_envelopes(rpc: RpcClient, path: str, body: bytes) -> None:
    answer = post(rpc, path, body, CONNECT_JSON)
    assert answer.status_code == 200
    assert answer.content[0] & 2 or path.endswith("StreamInput")


@pytest.mark.parametrize("method", ["Remove", "Move", "MakeDir"])
def test_a_forgotten_path_does_not_mean_the_home_directory(rpc: RpcClient, method: str) -> None:
    answer = post(rpc, f"/filesystem.Filesystem/{method}", b"{}", JSON)
    assert (answer.status_code, answer.json()["message"]) == (400, "the path is missing")
    assert post(rpc, "/filesystem.Filesystem/Stat", b"{}", JSON).status_code == 200


def test_random_bytes(rpc: RpcClient) -> None:
    chance = random.Random(7)
    for path in sorted(_UNARY):
        for kind in (JSON, "application/proto"):
            answer = post(rpc, path, chance.randbytes(chance.randrange(1, 300)), kind)
            assert answer.status_code < 500, (path, kind, answer.text)


def test_a_message_beyond_the_limit(rpc: RpcClient) -> None:
    body = json.dumps({"path": "x" * MESSAGE_LIMIT}).encode()
    answer = post(rpc, "/filesystem.Filesystem/Stat", body, JSON)
    assert (answer.status_code, answer.json()["code"]) == (429, "resource_exhausted")
    answer = post(rpc, "/process.Process/Start", envelope(body), CONNECT_JSON)
    assert error_of(answer.content)["code"] == "resource_exhausted"


def test_absurd_values(rpc: RpcClient) -> None:
    for request in (
        {"process": {"cmd": "x" * 1_000_000}},
        {"process": {"cmd": "/bin/true", "args": ["x"] * 500_000}},
        {"process": {"cmd": "/bin/true", "envs": {"A": "x" * 4_000_000}}},
        {"process": {"cmd": "/bin/true", "cwd": "x/" * 100_000}},
    ):
        answer = post(rpc, "/process.Process/Start", envelope(request), CONNECT_JSON)
        assert error_of(answer.content)["code"] == "invalid_argument", list(request)
    for path in ("x" * 5000, "x/" * 5000, "\ufffe", "..", "/" * 4000):
        answer = post(rpc, "/filesystem.Filesystem/Stat", json.dumps({"path": path}).encode(), JSON)
        assert answer.status_code < 500
    answer = post(rpc, "/filesystem.Filesystem/ListDir", b'{"path":"","depth":4294967295}', JSON)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "content_type", "status"),
    [
        ("/process.Process/List", "text/plain", 415),
        ("/process.Process/List", "", 415),
        ("/process.Process/List", CONNECT_JSON, 415),
        ("/process.Process/Start", JSON, 415),
        ("/process.Process/List", "application/grpc", 415),
        ("/process.Process/Start", "application/grpc+proto", 415),
        ("/process.Process/Start", "application/grpc-web+proto", 415),
        ("/process.Process/Nothing", JSON, 404),
        ("/filesystem.Filesystem/", JSON, 404),
        ("/process.Process/List", "application/json; charset=utf-8", 200),
    ],
)
def test_content_types_and_methods(rpc: RpcClient, path: str, content_type: str, status: int) -> None:
    assert post(rpc, path, b"{}", content_type).status_code == status


def test_get_is_not_for_rpc(rpc: RpcClient) -> None:
    answer = rpc.http.get("/process.Process/List", params={"message": "{}", "encoding": "json"})
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "headers",
    [
        {"Connect_Timeout_Ms": "x"},
        {"Connect_Timeout_Ms": "-5"},
        {"Connect_Timeout_Ms": "99999999999999999999"},
        {"Connect_Protocol_Version": "9"},
        {"Content_Encoding": "nonsense"},
        {"Authorization": "Basic ###"},
        {"Authorization": "Bearer x"},
        {"Accept_Encoding": "gzip"},
    ],
)
def test_odd_headers(rpc: RpcClient, headers: dict[str, str]) -> None:
    answer = post(rpc, "/process.Process/List", b"{}", JSON, **headers)
    assert answer.status_code in (200, 400, 401, 501)
    answer = post(rpc, "/process.Process/Connect", envelope({"process": {"pid": 1}}), CONNECT_JSON, **headers)
    assert answer.status_code in (200, 400)
    error = error_of(answer.content) if answer.status_code == 200 else answer.json()
    assert error["code"] in ("not_found", "invalid_argument", "unauthenticated")


def raw(server: EnvdServer, head: str, body: bytes = b"") -> bytes:
    """Send bytes as they are; returns what comes back until the connection closes."""
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(head.encode("latin-1") + body)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


HEAD = f"Host: x\r\nE2b-Sandbox-Id: i1\r\nX-Access-Token: {TOKEN}\r\nConnection: close\r\n"


def test_header_bytes_that_are_no_text(server: EnvdServer, rpc: RpcClient) -> None:
    head = f"POST /process.Process/List HTTP/1.1\r\n{HEAD}X-Odd: \xff\xfe\r\nUser-Agent: \xe4\r\nContent-Length: 2\r\n"
    assert raw(server, f"{head}Content-Type: application/json\r\n\r\n", b"{}").startswith(b"HTTP/1.1 200")
    assert raw(server, f"{head}Content-Type: application/\xff\r\n\r\n", b"{}").startswith(b"HTTP/1.1 415")
    assert raw(server, f"GET /health HTTP/1.1\r\n{HEAD}Authorization: \xff\r\n\r\n").startswith(b"HTTP/1.1 204")


@pytest.mark.parametrize("query", ["path=%ff", "path=%", "&".join(f"a{i}=1" for i in range(100)), "path=%00", "=&=&="])
def test_odd_queries(server: EnvdServer, rpc: RpcClient, query: str) -> None:
    assert raw(server, f"GET /files?{query} HTTP/1.1\r\n{HEAD}\r\n").startswith(b"HTTP/1.1 4")


def test_a_sandbox_header_from_outside_counts_for_nothing(server: EnvdServer, rpc: RpcClient) -> None:
    head = "GET /envs HTTP/1.1\r\nHost: x\r\nX-Cube-Sandbox-Id: i1\r\nConnection: close\r\n\r\n"
    assert raw(server, head).startswith(b"HTTP/1.1 404")


def test_a_request_that_is_cut_off(server: EnvdServer, rpc: RpcClient) -> None:
    parts = urlsplit(server.url)
    for path in ("process.Process/List", "process.Process/Start", "process.Process/StreamInput", "files?path=x"):
        connection = socket.create_connection((parts.hostname, parts.port))
        kind = JSON if path.endswith("List") else "application/octet-stream" if "files" in path else CONNECT_JSON
        head = f"POST /{path} HTTP/1.1\r\n{HEAD}Content-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"\0\0")
        connection.close()


def test_websockets_are_turned_away(server: EnvdServer, rpc: RpcClient) -> None:
    head = (
        f"GET /files HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: i1\r\nX-Access-Token: {TOKEN}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(f"{head}\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 4")
