"""The answer for sandboxes that are not in the table, over a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from cube.model.errors import PermissionDenied, Unavailable
from cube.proxy import lookup
from cube.proxy.routes import Gone, Route


class Known:
    """A directory of one running, one ended and one troublesome sandbox."""

    async def lookup(self, sandbox_id: str, token: str = "") -> Route | Gone | None:
        if sandbox_id == "bug":
            raise ZeroDivisionError
        if sandbox_id == "bad":
            raise Unavailable("the store is locked")
        if sandbox_id == "shut" and token != "key":
            raise PermissionDenied("no token, no entry")
        return {"run": Route("run", "10.0.0.1"), "shut": Route("shut", "10.0.0.2"), "old": Gone("old")}.get(sandbox_id)


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[httpx.AsyncClient]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen()
        task = asyncio.create_task(lookup.serve(listener, Known()))
        try:
            async with httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://x"
            ) as client:
                yield client
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with served(tmp_path / "lookup.sock") as client:
        yield client


@pytest.mark.parametrize(
    ("sandbox_id", "status", "body"),
    [
        ("run", 200, b"address=10.0.0.1\n"),
        ("shut", 403, b"no token, no entry"),
        ("old", 502, b"The sandbox was not found"),
        ("never", 404, b"The sandbox was not found"),
        ("bad", 503, b""),
        ("..", 404, b"The sandbox was not found"),
        ("a%2fb", 404, b"The sandbox was not found"),
    ],
)
async def test_answers(client: httpx.AsyncClient, sandbox_id: str, status: int, body: bytes) -> None:
    response = await client.get(f"/{sandbox_id}")
    assert (response.status_code, response.content) == (status, body)


async def test_a_connection_serves_many_questions(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        assert (await client.get("/run")).status_code == 200


async def test_a_broken_connection_does_not_end_the_service(client: httpx.AsyncClient, tmp_path: Path) -> None:
    _, writer = await asyncio.open_unix_connection(tmp_path / "lookup.sock")
    writer.write(b"this is not HTTP\r\n\r\n")
    writer.close()
    assert (await client.get("/run")).status_code == 200


async def test_a_failing_directory_does_not_end_the_service(client: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/bug")
    assert (await client.get("/run")).status_code == 200


async def test_the_token_goes_to_the_directory(client: httpx.AsyncClient) -> None:
    answer = await client.get("/shut", headers={"E2B-Traffic-Access-Token": "key"})
    assert (answer.status_code, answer.content) == (200, b"address=10.0.0.2\n")
