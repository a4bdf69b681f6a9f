"""The egress CA over HTTP: its certificate for all, its key for nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cube.egress.ca import open_authority
from support.api_server import ApiServer, running_api

TOKEN = "node-token-of-the-test"
CERTIFICATE, KEY = "/cube/ca/cube-root-ca.crt", "/cube/ca/cube-root-ca.key"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    open_authority(tmp_path / "ca")
    with running_api(tmp_path, api_key="secret", node_token=TOKEN) as server:
        yield server


def ask(server: ApiServer, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.request(method, server.url + path, headers=named, trust_env=False)


@pytest.mark.parametrize("prefix", ["", "/cubeapi/v1"])
def test_e11_everybody_gets_the_certificate(server: ApiServer, tmp_path: Path, prefix: str) -> None:
    answer = ask(server, prefix + CERTIFICATE)

    assert answer.status_code == 200
    assert answer.content == (tmp_path / "ca" / "cube-root-ca.crt").read_bytes()
    assert answer.headers["content-type"] == "application/octet-stream"


def test_e11_head_and_ranges(server: ApiServer, tmp_path: Path) -> None:
    whole = (tmp_path / "ca" / "cube-root-ca.crt").read_bytes()

    head, part = ask(server, CERTIFICATE, "HEAD"), ask(server, CERTIFICATE, range="bytes=5-9")

    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(whole)), b"")
    assert (part.status_code, part.content) == (206, whole[5:10])
    assert ask(server, CERTIFICATE, range="bytes=99999-").status_code == 416


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"authorization": "Bearer wrong"}, 403),
        ({"authorization": f"Basic {TOKEN}"}, 403),
        ({"authorization": f"Bearer {TOKEN}x"}, 403),
        ({"x_api_key": "secret"}, 403),
        ({"authorization": "Bearer secret"}, 403),
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": f"bearer {TOKEN}"}, 200),
    ],
)
def test_e11_the_key_is_for_nodes(server: ApiServer, headers: dict[str, str], status: int) -> None:
    answer = ask(server, KEY, **headers)

    assert answer.status_code == status
    assert (b"PRIVATE KEY" in answer.content) is (status == 200)


def test_e11_without_a_token_of_nodes_nobody_gets_the_key(tmp_path: Path) -> None:
    open_authority(tmp_path / "ca")
    with running_api(tmp_path) as server:
        for headers in ({}, {"authorization": "Bearer"}, {"authorization": "Bearer x"}):
            assert ask(server, KEY, **headers).status_code == 403


ELSEWHERE = """/cube/ca /cube/ca/ /cube/ca/x /cube/ca/../x /cube/ca/%2e%2e/cube.db /cube/ca/cube-root-ca.crt/x
    /cube/ca/..%2fcube.db /cube/ca/cube-root-ca.pem /cube/ca//cube-root-ca.key"""


@pytest.mark.parametrize("path", ELSEWHERE.split())
def test_e11_nothing_else_is_there(server: ApiServer, path: str) -> None:
    connection = httpx.Client(base_url=server.url, trust_env=False, headers={"X-API-KEY": "secret"})

    assert connection.get(path).status_code == 404


def test_without_an_authority_there_is_nothing_to_give(tmp_path: Path) -> None:
    with running_api(tmp_path) as server:
        assert ask(server, CERTIFICATE).status_code == 404
