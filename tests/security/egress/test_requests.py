"""Attacks by the form of a request: smuggling, forms of the target, headers, paths, pseudo-headers."""

from __future__ import annotations

import pytest
import pytest_asyncio

from support.egress.client import http2
from support.egress.world import Box, EgressWorld
from support.egress_cases import rule

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

SECRET = "S3CR3T-of-the-test"


def secured(**match: object) -> dict[str, object]:
    made = rule("secured", **match)
    made["action"]["inject"] = [{"header": "Authorization", "secret": SECRET}]
    return made


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _some_paths_are_allowed(box: Box) -> None:
    await box.allow(rule("no", False, host="api.a.test", path="/admin*"), secured(host="api.a.test"))


def post(headers: str, body: str = "") -> bytes:
    return f"POST / HTTP/1.1\r\nhost: api.a.test\r\n{headers}\r\n\r\n{body}".encode()


SECOND = "12345GET /admin HTTP/1.1\r\nhost: api.a.test\r\n\r\n"
SMUGGLING = {
    "length and chunked": post("content-length: 6\r\ntransfer-encoding: chunked", "0\r\n\r\nG"),
    "two lengths": post("content-length: 5\r\ncontent-length: 44", SECOND),
    "a list of lengths": post("content-length: 5, 44", SECOND),
    "a signed length": post("content-length: +5", "12345"),
    "an encoding that is none": post("transfer-encoding: xchunked", "0\r\n\r\n"),
    "two encodings": post("transfer-encoding: chunked\r\ntransfer-encoding: x", "0\r\n\r\n"),
    "a space before the colon": post("transfer-encoding : chunked", "0\r\n\r\n"),
    "a bare line feed in a chunk": post("transfer-encoding: chunked", "1;\n\r\nx\r\n0\r\n\r\n"),
    "a zero byte in a value": post("x: y\0z"),
}


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING)
async def test_ambiguous_messages_are_refused_and_never_forwarded(
    world: EgressWorld, box: Box, data: bytes, tls: bool
) -> None:
    """What one side could take for one request and the other for two."""
    answer = await box.client().raw(f"{'https' if tls else 'http'}://api.a.test/", data, wait=0.7)

    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501")) or answer == b""
    assert "/admin" not in world.internet.targets()
    assert all(seen.method != "G" for seen in world.internet.seen)


@pytest.mark.parametrize("lines", ["x: y\r\n transfer-encoding: chunked", "x: y\rtransfer-encoding: chunked"])
async def test_folded_headers_stay_one_header(world: EgressWorld, box: Box, lines: str) -> None:
    await box.client().raw(
        "http://api.a.test/", f"GET / HTTP/1.1\r\nhost: api.a.test\r\n{lines}\r\n\r\n".encode(), wait=0.7
    )

    for seen in world.internet.seen:
        assert seen.get("transfer-encoding") is None
        assert "\r" not in str(seen.headers)


async def test_a_length_beside_chunks_does_not_reach_the_server(world: EgressWorld, box: Box) -> None:
    data = SMUGGLING["length and chunked"]

    await box.client().raw("http://api.a.test/", data, wait=0.7)

    for seen in world.internet.seen:
        assert not (seen.get("content-length") and seen.get("transfer-encoding"))


async def test_http2_to_http1_carries_no_second_request(world: EgressWorld, box: Box) -> None:
    """A line end in an HTTP/2 header would begin a new one in HTTP/1.1."""
    world.internet.old.add("api.a.test")
    base = [(":method", "POST"), (":scheme", "https"), (":authority", "api.a.test"), (":path", "/")]
    for evil in (
        ("x", "y\r\n\r\nGET /admin HTTP/1.1\r\nhost: api.a.test\r\n\r\n"),
        ("x\r\ny", "z"),
        ("transfer-encoding", "chunked"),
        ("connection", "upgrade"),
        ("content-length", "0"),
        ("x", "y\0"),
        ("host", "evil.test"),
    ):
        reply = await http2(
            box.client(alpn=["h2"]), "https://api.a.test/", [*base, evil], b"GET /admin HTTP/1.1\r\n\r\n", trust_me=True
        )
        assert reply.status in (0, 400, 421) or evil[0] == "host"
    world.internet.old.clear()

    assert "/admin" not in world.internet.targets()
    assert all(seen.all("host") == ["api.a.test"] for seen in world.internet.seen)


PSEUDO = {
    "authority twice": [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "api.a.test"),
        (":authority", "evil.test"),
    ],
    "method twice": [(":method", "GET"), (":method", "DELETE"), (":scheme", "https"), (":authority", "api.a.test")],
    "unknown": [(":method", "GET"), (":scheme", "https"), (":authority", "api.a.test"), (":evil", "x")],
    "after headers": [("x", "y"), (":method", "GET"), (":scheme", "https"), (":authority", "api.a.test")],
    "in capitals": [(":method", "GET"), (":scheme", "https"), (":Authority", "api.a.test")],
    "user in the authority": [(":method", "GET"), (":scheme", "https"), (":authority", "api.a.test@evil.test")],
    "path in the authority": [(":method", "GET"), (":scheme", "https"), (":authority", "api.a.test/evil")],
    "no authority but host": [(":method", "GET"), (":scheme", "https"), ("host", "evil.test")],
    "method with spaces": [(":method", "GET /admin HTTP/1.1"), (":scheme", "https"), (":authority", "api.a.test")],
}


@pytest.mark.parametrize("headers", PSEUDO.values(), ids=PSEUDO)
async def test_games_with_pseudo_headers_lead_nowhere(world: EgressWorld, box: Box, headers: list) -> None:
    fields = (
        [*headers, (":path", "/")] if headers[-1][0].startswith(":") else [*headers[:-1], (":path", "/"), headers[-1]]
    )

    reply = await http2(box.client(alpn=["h2"]), "https://api.a.test/", fields, trust_me=True)

    assert reply.status in (0, 400, 403, 421)
    assert world.internet.seen == []


async def test_the_scheme_is_that_of_the_connection(world: EgressWorld, box: Box) -> None:
    await box.allow(secured(host="api.a.test", scheme="http"))
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "api.a.test"), (":path", "/")]

    reply = await http2(box.client(alpn=["h2"]), "https://api.a.test/", fields)

    # No rule for this name meets HTTPS: there was not even a certificate, or the rule does not fit.
    assert reply.status in (0, 403)
    assert world.internet.seen == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_absolute_target_counts_as_the_host(world: EgressWorld, box: Box, scheme: str) -> None:
    allowed = await box.get(f"{scheme}://api.a.test/", target=f"{scheme}://api.a.test/x", host="evil.test")
    evil = await box.get(f"{scheme}://api.a.test/", target=f"{scheme}://evil.test/x", host="api.a.test")
    other = await box.get(f"{scheme}://api.a.test/", target="ftp://api.a.test/x")

    assert allowed.status == 200
    assert evil.status in (403, 421)
    assert other.status in (400, 403, 404)
    assert [seen.all("host") for seen in world.internet.seen] == [["api.a.test"]]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("target", [b"evil.test:443", b"api.a.test:443", b"api.a.test:22", b"127.0.0.1:9901"])
async def test_connect_is_not_carried_out(world: EgressWorld, box: Box, target: bytes, tls: bool) -> None:
    data = b"CONNECT %s HTTP/1.1\r\nhost: api.a.test\r\n\r\n" % target

    answer = await box.client().raw(f"{'https' if tls else 'http'}://api.a.test/", data, wait=0.7)

    assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400", b"HTTP/1.1 421", b"HTTP/1.1 404"))
    assert world.internet.seen == []


async def test_connect_over_http2_is_not_carried_out(world: EgressWorld, box: Box) -> None:
    for fields in (
        [(":method", "CONNECT"), (":authority", "api.a.test:443")],
        [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":path", "/"),
            (":authority", "api.a.test"),
        ],
        [
            (":method", "CONNECT"),
            (":protocol", "connect-udp"),
            (":scheme", "https"),
            (":path", "/"),
            (":authority", "api.a.test"),
        ],
    ):
        reply = await http2(box.client(alpn=["h2"]), "https://api.a.test/", fields, trust_me=True)
        assert reply.status in (0, 400, 403, 404, 421)

    assert world.internet.seen == []


@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.0", "connect-udp", "websocket, h2c"])
async def test_upgrades_to_anything_but_websockets_are_not_made(world: EgressWorld, box: Box, protocol: str) -> None:
    """An upgrade to clear-text HTTP/2 would hide all further requests."""
    headers = [
        ("upgrade", protocol),
        ("connection", "upgrade, http2-settings"),
        ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
    ]

    reply = await box.get("http://api.a.test/", headers=headers)

    assert reply.status != 101
    assert all(seen.get("upgrade") is None for seen in world.internet.seen)


@pytest.mark.parametrize("value", ["api.a.test", "evil.test"])
async def test_two_host_headers_are_refused(world: EgressWorld, box: Box, value: str) -> None:
    reply = await box.get("http://api.a.test/", headers=[("Host", value)])

    assert reply.status in (400, 403)
    assert world.internet.seen == []


@pytest.mark.parametrize("host", ["api.a.test.", "API.A.TEST", "api.a.test:80"], ids=["final dot", "capitals", "port"])
async def test_spellings_of_the_same_name_get_the_same_decision(world: EgressWorld, box: Box, host: str) -> None:
    reply = await box.get("http://api.a.test/admin", host=host)

    assert reply.reason in ("denied_by_rule", "no_rule_match")
    assert world.internet.seen == []


@pytest.mark.parametrize(
    "host",
    [
        "api.a.test@evil.test",
        "evil.test#api.a.test",
        "api.a.test\tevil.test",
        "api.a.test/..",
        "api.a.test:80:80",
        "",
        "api%2ea.test",
        "api.a.test\\evil.test",
    ],
)
async def test_hosts_that_are_no_names_are_refused(world: EgressWorld, box: Box, host: str) -> None:
    await box.allow(secured())

    replies = [await box.client().attempt(f"{scheme}://api.a.test/", host=host) for scheme in ("http", "https")]

    assert all(reply.status in (400, 403, 421) for reply in replies)
    assert world.internet.seen == []


@pytest.mark.parametrize(
    "target",
    [
        *("/admin", "/admin/", "/admin?x", "/administrator", "//admin", "/x/../admin", "/./admin", "/x/%2e%2e/admin"),
        *("/%61dmin", "/%61%64%6d%69%6e", "/x/..;/../admin", "/admin;x", "/admin%3Bx", "/admin/%2e", "/x/..;/admin"),
        *("///admin", "/x/.%2e/admin", "/x/%2E%2E/admin", "/admin%00", "/admin%20", "\\admin", "/x\\..\\admin"),
        *("/x%2f..%2fadmin", "/x/..%2fadmin", "/%5cadmin", "/admin#fragment", "/ADMIN/../admin"),
    ],
)
async def test_spellings_of_a_denied_path_are_denied(world: EgressWorld, box: Box, target: str) -> None:
    for scheme in ("http", "https"):
        reply = await box.client().attempt(f"{scheme}://api.a.test/", target=target)
        assert reply.status in (0, 400, 403, 404)

    assert world.internet.seen == []


@pytest.mark.parametrize("target", ["/x/../v1/a", "/x//../v1/a", "/v1/./a", "/v1//a", "/%76%31/a", "/v1/a/%2e"])
async def test_allowed_paths_arrive_as_they_were_decided_about(world: EgressWorld, box: Box, target: str) -> None:
    """The server must not read another path than the rules did."""
    await box.allow(rule(host="api.a.test", path="/v1/a*"))

    reply = await box.get("https://api.a.test/", target=target)

    if reply.status == 200:
        assert world.internet.targets()[0].startswith("/v1/a")
    else:
        assert reply.reason == "no_rule_match"


async def test_redirects_are_the_clients_to_follow_and_carry_no_credential(world: EgressWorld, box: Box) -> None:
    reply = await box.get("https://api.a.test/redirect/?to=https://evil.test/steal")

    assert reply.status == 302
    assert SECRET not in str(reply.headers)
    assert [seen.target.partition("?")[0] for seen in world.internet.seen] == ["/redirect/"]


async def test_bytes_that_are_not_http_are_hung_up_on(world: EgressWorld, box: Box) -> None:
    for data in (b"SSH-2.0-x\r\n", b"\0\1\2\3" * 10, b"EHLO x\r\n", b"*1\r\n$4\r\nPING\r\n"):
        assert await box.client().raw("http://api.a.test/", data, wait=3) in (b"",)

    assert world.internet.seen == []


async def test_headers_without_end_are_refused(box: Box) -> None:
    many = "".join(f"x{number}: y\r\n" for number in range(500))
    long = f"x: {'y' * 100_000}\r\n"
    for headers in (many, long):
        data = f"GET / HTTP/1.1\r\nhost: api.a.test\r\n{headers}\r\n".encode()
        answer = await box.client().raw("http://api.a.test/", data, wait=3)
        assert answer.startswith(b"HTTP/1.1 431")
