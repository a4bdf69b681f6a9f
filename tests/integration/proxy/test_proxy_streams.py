"""Long, large and two-way traffic through the proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

MIB = 1024 * 1024
LARGE = 100 * MIB


async def test_events_arrive_one_by_one(door: Any, box: Any) -> None:
    headers = door.host(box.port, box.sandbox_id)
    async with door.client.stream("GET", "/events", headers=headers) as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "data: first"
        box.upstream.gate.set()  # the second is only made now: the first was not held back
        assert [line async for line in lines if line] == ["data: second"]


async def test_large_download(door: Any, box: Any) -> None:
    headers = door.host(box.port, box.sandbox_id)
    async with door.client.stream("GET", f"/bytes/{LARGE}", headers=headers) as response:
        assert sum([len(chunk) async for chunk in response.aiter_raw()]) == LARGE


@pytest.mark.parametrize("to", ["box", "envd"])
async def test_large_upload(door: Any, box: Any, to: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(LARGE // MIB):
            yield b"\0" * MIB

    headers = door.host(box.port if to == "box" else 49983, box.sandbox_id)
    response = await door.client.post("/count", headers=headers, content=body())
    assert response.json() == LARGE


async def test_conversation_in_one_request(door: Any, box: Any) -> None:
    host = door.host(box.port, box.sandbox_id)["host"]
    reader, writer = await asyncio.open_connection("127.0.0.1", door.settings.port)
    writer.write(f"POST /echo HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    for word in (b"one", b"two"):
        writer.write(b"3\r\n" + word + b"\r\n")
        assert await reader.readexactly(8) == b"3\r\n" + word + b"\r\n"
    writer.write(b"0\r\n\r\n")
    assert await reader.readexactly(5) == b"0\r\n\r\n"
    writer.close()


async def test_websocket_upgrade(door: Any, box: Any) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"upgrade: websocket" in head.lower()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(accept, box.address, 0) as server:
        host = door.host(server.sockets[0].getsockname()[1], box.sandbox_id)["host"]
        reader, writer = await asyncio.open_connection("127.0.0.1", door.settings.port)
        upgrade = (
            "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n"
        )
        writer.write(f"GET /chat HTTP/1.1\r\nhost: {host}\r\n{upgrade}\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        for frame in (b"\x82\x03abc", b"\x82\x7e\xff\xff" + b"x" * 65535):
            writer.write(frame)
            assert await reader.readexactly(len(frame)) == frame
        writer.close()


async def test_http2_client_reaches_http1_services(door: Any) -> None:
    async with httpx.AsyncClient(base_url=door.settings.public_url, http1=False, http2=True) as client:
        response = await client.get("/x", headers={"E2b-Sandbox-Id": "new1", "E2b-Sandbox-Port": "49983"})
    assert response.http_version == "HTTP/2"
    assert response.json()["server"] == "envd"


async def test_grpc_both_ways_over_http2(door: Any, box: Any) -> None:
    async def echo(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", {"Talk": handler})])
    port = server.add_insecure_port(f"{box.address}:0")
    await server.start()
    options = [("grpc.default_authority", door.host(port, box.sandbox_id)["host"])]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{door.settings.port}", options) as channel:
        call = channel.stream_stream("/test.Echo/Talk")()
        for word in (b"one", b"two"):
            await call.write(word)
            assert await call.read() == word.upper()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
    await server.stop(None)
