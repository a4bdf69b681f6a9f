"""Attacks on who is meant: names, addresses and ports that contradict each other."""

from __future__ import annotations

import ssl

import pytest

from support.egress.client import http2
from support.egress.world import NAMES, Box, EgressWorld
from support.egress_cases import rule

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

SECRET = "S3CR3T-of-the-test"


def secured(**match: object) -> dict[str, object]:
    """A rule that injects a credential."""
    made = rule("secured", **match)
    made["action"]["inject"] = [{"header": "Authorization", "secret": SECRET}]
    return made


RULES = {
    "one name": [secured(host="api.a.test")],
    "one name in the handshake": [secured(sni="api.a.test")],
    "a wildcard": [secured(host="*.a.test")],
    "everything": [secured()],
    "an own rule for the other": [secured(host="api.a.test"), rule("other", host="evil.test")],
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
async def test_host_and_handshake_that_differ_are_misdirected(world: EgressWorld, box: Box, rules: list) -> None:
    """Domain fronting: an allowed name in the handshake, another one in the request, or the other way round."""
    await box.allow(*rules)

    front = await box.get("https://api.a.test/", host="evil.test")
    reply = await http2(
        box.client(alpn=["h2"]),
        "https://api.a.test/",
        [(":method", "GET"), (":scheme", "https"), (":authority", "evil.test"), (":path", "/")],
    )

    assert (front.status, front.reason) == (421, "g4_host_sni_mismatch")
    assert (reply.status, reply.reason) == (421, "g4_host_sni_mismatch")
    assert world.internet.seen == []


@pytest.mark.parametrize("rules", [RULES["one name"], RULES["a wildcard"]], ids=["one name", "a wildcard"])
async def test_the_dialled_address_does_not_matter(world: EgressWorld, box: Box, rules: list) -> None:
    """An allowed name at the attacker's address leads to the name, never to the address."""
    await box.allow(*rules)

    for scheme in ("http", "https"):
        reply = await box.get(f"{scheme}://api.a.test/", address=NAMES["evil.test"])
        assert reply.status == 200

    assert {seen.address for seen in world.internet.seen} == {NAMES["api.a.test"]}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
async def test_no_rule_lets_plain_http_carry_the_credential(world: EgressWorld, box: Box, rules: list) -> None:
    await box.allow(*rules)

    await box.get("http://api.a.test/", address=NAMES["evil.test"])

    assert SECRET not in str(world.internet.seen)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
async def test_the_port_in_host_does_not_choose_the_upstream_port(
    world: EgressWorld, box: Box, scheme: str, rules: list
) -> None:
    await box.allow(*rules)

    for port in ("8443", "80", "443", "0", "99999", "22"):
        if port == {"http": "80", "https": "443"}[scheme]:
            continue
        reply = await box.get(f"{scheme}://api.a.test/", host=f"api.a.test:{port}")
        assert reply.status in (400, 403, 421)

    assert world.internet.seen == []


async def test_a_diverted_port_asks_for_itself_in_host(world: EgressWorld, box: Box) -> None:
    await box.allow(rule(host="api.a.test:8443"))

    reply = await box.get("https://api.a.test:8443/", host="api.a.test")

    assert (reply.status, reply.reason) == (421, "port_mismatch")


async def test_there_is_no_certificate_for_names_that_no_rule_speaks_of(world: EgressWorld, box: Box) -> None:
    await box.allow(secured(host="api.a.test"))

    for name in ("evil.test", "a.test", "x.api.a.test", "api.a.test.evil.test", "xapi.a.test"):
        with pytest.raises(ssl.SSLError):
            await box.client().request("GET", "https://api.a.test/", sni=name)


async def test_https_to_an_address_has_no_name_and_so_no_certificate(world: EgressWorld, box: Box) -> None:
    await box.allow(secured())

    with pytest.raises(ssl.SSLError):
        await box.get(f"https://{NAMES['api.a.test']}/")

    assert world.internet.seen == []


async def test_http_to_an_address_needs_a_rule_for_it(world: EgressWorld, box: Box) -> None:
    address = NAMES["api.a.test"]
    await box.allow(rule(host="api.a.test"))
    assert (await box.get(f"http://{address}/")).reason == "no_rule_match"

    await box.allow(rule(host=address))
    assert (await box.get(f"http://{address}/")).status == 200


@pytest.mark.parametrize(
    "host",
    ["[::ffff:203.0.113.10]", "[::1]", "[2001:db8::1]", "0xcb.0.113.10", "3405803786", "203.0.113.010", "203.0.28938"],
)
async def test_other_spellings_of_addresses_are_no_way_around(world: EgressWorld, box: Box, host: str) -> None:
    """A rule for everything must not reach what is refused: IPv4 in IPv6, hexadecimal, octal, short forms."""
    await box.allow(rule(), rule(host="203.0.113.0/24"))

    reply = await box.get("http://api.a.test/", host=host)

    assert reply.status in (400, 403, 502)
    assert world.internet.seen == []


@pytest.mark.parametrize("name", ["inside.a.test", "loop.a.test", "meta.a.test"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_allowed_names_at_private_addresses_are_not_dialled(
    world: EgressWorld, box: Box, scheme: str, name: str
) -> None:
    """Server-side request forgery, and DNS rebinding: the address that counts is the one that is dialled."""
    await box.allow(rule(host="*.a.test"))

    reply = await box.get(f"{scheme}://{name}/", address=NAMES["api.a.test"])

    assert (reply.status, reply.reason) == (502, "upstream_unreachable_or_unverified")
    assert world.internet.seen == []


@pytest.mark.parametrize(
    "address", ["10.99.0.7", "127.0.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "192.168.1.1"]
)
async def test_private_addresses_are_not_dialled(world: EgressWorld, box: Box, address: str) -> None:
    await box.allow(rule(), rule(host="0.0.0.0/0"))

    reply = await box.get("http://api.a.test/", host=address)

    assert (reply.status, reply.reason) == (502, "upstream_unreachable_or_unverified")
    assert world.internet.seen == []


async def test_the_address_of_another_sandbox_is_not_dialled(world: EgressWorld, box: Box) -> None:
    other = world.box()
    await box.allow(rule())

    reply = await box.get("http://api.a.test/", host=other.address)

    assert (reply.status, reply.reason) == (502, "upstream_unreachable_or_unverified")


async def test_a_name_that_changes_its_address_to_a_private_one_is_refused(world: EgressWorld, box: Box) -> None:
    await box.allow(rule(host="*.a.test"))
    world.names["rebind.a.test"] = "10.99.0.7"

    reply = await box.get("http://rebind.a.test/", address=NAMES["api.a.test"])

    assert reply.status == 502
    assert world.internet.seen == []


@pytest.mark.parametrize("header", ["x-cube-source", "X-Cube-Source", "X-CUBE-WHERE", "x-cube-cluster"])
async def test_a_sandbox_cannot_be_another(world: EgressWorld, box: Box, header: str) -> None:
    other = world.box()
    await other.allow(rule())
    await box.allow(rule(host="www.a.test"))
    values = [other.address, "80 - www.a.test", "tls"]

    for value in values:
        reply = await box.get("http://api.a.test/", headers=[(header, value)])
        assert reply.reason == "no_rule_match"

    assert world.internet.seen == []


async def test_a_handshake_in_pieces_is_read_whole(world: EgressWorld, box: Box) -> None:
    """The name of the handshake is not missed when it comes byte by byte."""
    await box.allow(secured(host="api.a.test"))
    context, incoming, outgoing = ssl.create_default_context(), ssl.MemoryBIO(), ssl.MemoryBIO()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    results = []
    for name in ("api.a.test", "evil.test"):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured_socket = context.wrap_bio(incoming, outgoing, server_hostname=name)
        with pytest.raises(ssl.SSLWantReadError):
            secured_socket.do_handshake()
        reader, writer = await box.client().connect("api.a.test", 443, tls=False)
        for byte in outgoing.read():
            writer.write(bytes([byte]))
            await writer.drain()
        results.append(await reader.read(1))
        writer.close()

    # A handshake message for the allowed name, an alert for the other.
    assert results == [b"\x16", b"\x15"]


async def test_an_encrypted_client_hello_shows_its_outer_name_alone(world: EgressWorld, box: Box) -> None:
    """ECH needs a server with keys for the outer name, which the gateway has not: nobody learns the inner name."""
    await box.allow(secured(host="api.a.test"))
    outer = b"\0\0\1\0\1\x42" + (32).to_bytes(2, "big") + b"e" * 32 + (64).to_bytes(2, "big") + b"p" * 64
    answers = []
    for name in ("cloudflare-ech.test", "api.a.test"):
        data = client_hello(name, extension=(0xFE0D, outer))
        answers.append((await box.client().raw("http://api.a.test:443/", data, wait=3))[:1])

    # An alert for a name that no rule speaks of; a handshake for the outer name where it is an allowed one.
    assert answers == [b"\x15", b"\x16"]
    assert world.internet.seen == []


@pytest.mark.parametrize("size", [1, 100])
async def test_a_handshake_in_several_records_is_read_whole(world: EgressWorld, box: Box, size: int) -> None:
    """The name cannot hide between two TLS records: the hello is put together, or the connection is closed."""
    await box.allow(secured(host="api.a.test"))
    answers = []
    for name in ("api.a.test", "evil.test"):
        data = in_records(client_hello(name, extension=(0x0A0A, b"")), size)
        answers.append((await box.client().raw("http://api.a.test:443/", data, wait=3))[:1])

    assert answers[0] in (b"\x16", b"\x15", b"")
    assert answers[1] in (b"\x15", b"")
    assert world.internet.seen == []


def in_records(record: bytes, size: int) -> bytes:
    """The handshake message of a record in records of that many bytes."""
    message = record[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(record[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


@pytest.mark.parametrize("kind", [0x0A0A, 0xFAFA], ids=["GREASE", "another GREASE"])
async def test_extensions_of_no_meaning_change_nothing(world: EgressWorld, box: Box, kind: int) -> None:
    """Browsers send such so that servers get used to the unknown: it is neither a name nor a reason to let pass."""
    await box.allow(secured(host="api.a.test"))
    answers = []
    for name in ("api.a.test", "evil.test"):
        data = client_hello(name, extension=(kind, bytes(range(40))))
        answers.append((await box.client().raw("http://api.a.test:443/", data, wait=3))[:1])

    assert answers == [b"\x16", b"\x15"]
    assert world.internet.seen == []


async def test_a_hello_with_two_names_is_refused(world: EgressWorld, box: Box) -> None:
    """What reads the first name and what reads the last must not be two different things."""
    await box.allow(secured(host="api.a.test"))
    evil = b"evil.test"
    entry = b"\0" + len(evil).to_bytes(2, "big") + evil
    data = client_hello("api.a.test", extension=(0, len(entry).to_bytes(2, "big") + entry))

    assert (await box.client().raw("http://api.a.test:443/", data, wait=3))[:1] in (b"\x15", b"")


def client_hello(name: str, *, extension: tuple[int, bytes]) -> bytes:
    """A TLS 1.3 hello with one more extension than Python would send."""
    context, incoming, outgoing = ssl.create_default_context(), ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    record = outgoing.read()
    body = bytearray(record[9:])
    at = 2 + 32
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    size = int.from_bytes(body[at : at + 2], "big")
    kind, content = extension
    added = kind.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content
    body[at : at + 2] = (size + len(added)).to_bytes(2, "big")
    body += added
    handshake = b"\x01" + len(body).to_bytes(3, "big") + bytes(body)
    return record[:3] + len(handshake).to_bytes(2, "big") + handshake
