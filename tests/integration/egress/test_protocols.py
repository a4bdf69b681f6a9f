"""What programs in sandboxes speak goes through: HTTP/1.1, HTTP/2, gRPC, WebSocket, events, large bodies."""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time

import pytest
import pytest_asyncio

from support.egress.client import Client, converse, http2
from support.egress.world import Box, EgressWorld
from support.egress_cases import rule

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

PSEUDO = [(":method", "GET"), (":scheme", "https"), (":authority", "api.a.test"), (":path", "/x")]
MEGABYTE = 1 << 20


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _everything_is_allowed(box: Box) -> None:
    await box.allow(rule(host="*.a.test"))


async def test_keep_alive(world: EgressWorld, box: Box) -> None:
    reader, writer = await box.client().connect("api.a.test", 443, tls=True)

    for number in range(3):
        reply = await converse(reader, writer, "GET", f"/{number}", [("host", "api.a.test")])
        assert reply.status == 200

    writer.close()
    assert world.internet.targets() == ["/0", "/1", "/2"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_methods(world: EgressWorld, box: Box, method: str) -> None:
    reply = await box.client().request(method, "https://api.a.test/m", body=b"abc" if method == "POST" else b"")

    assert reply.status == 200
    assert world.internet.seen[0].method == method


async def test_http2_on_both_sides(world: EgressWorld, box: Box) -> None:
    reply = await http2(box.client(alpn=["h2"]), "https://api.a.test/", PSEUDO)

    assert reply.status == 200
    assert world.internet.seen[0].version == "2"


@pytest.mark.parametrize(("client", "host", "upstream"), [("h2", "old.a.test", "1.1"), ("http/1.1", "api.a.test", "2")])
async def test_versions_are_translated(world: EgressWorld, box: Box, client: str, host: str, upstream: str) -> None:
    world.internet.old.add("old.a.test")
    if client == "h2":
        reply = await http2(box.client(alpn=["h2"]), f"https://{host}/", [*PSEUDO[:2], (":authority", host), PSEUDO[3]])
    else:
        reply = await box.get(f"https://{host}/")

    assert reply.status == 200
    assert world.internet.seen[0].version == upstream


async def test_other_ports_that_rules_name(world: EgressWorld, box: Box) -> None:
    await box.allow(rule(host="api.a.test:8443"))

    reply = await box.get("https://api.a.test:8443/p")

    assert reply.status == 200
    assert world.internet.seen[0].get("host") == "api.a.test:8443"


async def test_the_port_of_a_host_header_may_be_told_or_not(world: EgressWorld, box: Box) -> None:
    for host in ("api.a.test", "api.a.test:443"):
        await box.allow(rule(host="api.a.test"))
        assert (await box.get("https://api.a.test/", host=host)).status == 200


async def test_a_body_without_a_length_is_streamed(world: EgressWorld, box: Box) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (b"one", b"two" * 1000)) + b"0\r\n\r\n"

    reply = await box.client().request(
        "POST", "https://api.a.test/count", headers=[("transfer-encoding", "chunked")], body=body
    )

    assert reply.body == b"3003"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_large_bodies_go_both_ways(box: Box, scheme: str) -> None:
    down = await box.get(f"{scheme}://api.a.test/bytes/{64 * MEGABYTE}")
    up = await box.client().request("POST", f"{scheme}://api.a.test/count", body=b"y" * (32 * MEGABYTE))

    assert len(down.body) == 64 * MEGABYTE
    assert up.body == str(32 * MEGABYTE).encode()


async def test_a_body_is_not_kept_in_memory(world: EgressWorld, box: Box) -> None:
    """A reader that stands still holds up the server; a gigabyte does not gather in Envoy."""

    def resident() -> int:
        with open(f"/proc/{world.egress.envoy_pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = resident()
    _, writer = await box.client().connect("api.a.test", 443, tls=True)
    writer.transport.pause_reading()
    writer.write(b"GET /bytes/1073741824 HTTP/1.1\r\nhost: api.a.test\r\n\r\n")
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        assert resident() - before < 64 * MEGABYTE
    writer.transport.abort()


async def test_events_arrive_one_by_one(box: Box) -> None:
    reader, writer = await box.client().connect("api.a.test", 443, tls=True)
    writer.write(b"GET /events/4 HTTP/1.1\r\nhost: api.a.test\r\n\r\n")
    arrived = []
    while len(arrived) < 4:
        line = await asyncio.wait_for(reader.readline(), 10)
        if line.startswith(b"data:"):
            arrived.append(time.monotonic())
    writer.close()

    assert arrived[3] - arrived[0] > 0.15


def frame(payload: bytes) -> bytes:
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
    return b"\x82" + length + bytes(4) + payload


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nhost: %s\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("rules", ["exact", "wildcard"])
async def test_websockets_echo(world: EgressWorld, box: Box, tls: bool, rules: str) -> None:
    made = rule(host="api.a.test" if rules == "exact" else "*.a.test")
    made["action"]["inject"] = [{"header": "X-Key", "secret": "k"}]
    await box.allow(made)
    reader, writer = await box.client().connect("api.a.test", 443 if tls else 80, tls=tls)
    writer.write(UPGRADE % b"api.a.test")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 101")

    for payload in (b"hello", b"z" * 60_000):
        writer.write(frame(payload))
        answer = await asyncio.wait_for(reader.readexactly(2), 10)
        length = answer[1] if answer[1] < 126 else struct.unpack("!H", await reader.readexactly(2))[0]
        assert await asyncio.wait_for(reader.readexactly(length), 10) == payload
    writer.close()
    assert world.internet.seen[0].version == "1.1"
    assert world.internet.seen[0].get("x-key") == ("k" if tls else None)


GRPC = """
import grpc, sys
with open(sys.argv[1], 'rb') as file: roots = file.read()
options = [('grpc.ssl_target_name_override', 'api.a.test'), ('grpc.default_authority', 'api.a.test')]
channel = grpc.secure_channel('203.0.113.10:443', grpc.ssl_channel_credentials(roots), options)
call = channel.stream_stream('/echo.Echo/Talk', lambda b: b, lambda b: b)
print([m.decode() for m in call(iter([b'one', b'two', b'three']), timeout=20)])
"""


async def test_grpc_streams_both_ways(world: EgressWorld, box: Box) -> None:
    roots = world.directory / "ca" / "cube-root-ca.crt"

    done = await asyncio.to_thread(box.namespace.run, sys.executable, "-c", GRPC, str(roots))

    assert done.stdout.strip() == "['one', 'two', 'three']"


async def test_curl_believes_the_authority(world: EgressWorld, box: Box) -> None:
    roots = world.directory / "ca" / "cube-root-ca.crt"
    command = ("curl", "-sS", "--noproxy", "*", "--cacert", str(roots), "--resolve", "api.a.test:443:203.0.113.10")

    for version in ("--http1.1", "--http2"):
        done = await asyncio.to_thread(box.namespace.run, *command, version, "https://api.a.test/curl")
        assert '"target": "/curl"' in done.stdout


async def test_many_requests_at_once(box: Box) -> None:
    client: Client = box.client()

    replies = await asyncio.gather(*(client.request("GET", f"https://api.a.test/{number}") for number in range(60)))

    assert {reply.status for reply in replies} == {200}


async def test_answers_of_servers_are_left_alone(box: Box) -> None:
    for status in (200, 401, 403, 404, 421, 500, 503):
        reply = await box.get(f"https://api.a.test/status/{status}")
        assert (reply.status, reply.body) == (status, b"upstream says so")
        assert reply.get("server") == "upstream"
