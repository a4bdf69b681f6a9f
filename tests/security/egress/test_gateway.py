"""Attacks on the gateway itself, and on the credentials that pass through it."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest

from cube.egress.audit.log import read
from cube.egress.ca import open_authority
from support.egress.world import NODE, Box, EgressWorld
from support.egress_cases import rule

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

SECRET = "S3CR3T-of-the-test"


def secured(**match: object) -> dict[str, object]:
    made = rule("secured", **match)
    made["action"] |= {"audit": "full", "inject": [{"header": "Authorization", "secret": SECRET}]}
    return made


@pytest.mark.parametrize("flaw", ["another name", "an unknown signer", "too old"])
async def test_a_server_with_a_bad_certificate_gets_nothing(
    world: EgressWorld, box: Box, tmp_path: Path, flaw: str
) -> None:
    name = {"another name": "impostor.a.test", "an unknown signer": "sub.b.test", "too old": "b.test"}[flaw]
    world.internet.impostors.update(["impostor.a.test"])
    world.internet.forged["sub.b.test"] = open_authority(tmp_path / "forger")
    world.internet.expired.add("b.test")
    await box.allow(secured(host=name))

    reply = await box.get(f"https://{name}/")

    assert (reply.status, reply.reason) == (502, "upstream_unreachable_or_unverified")
    assert world.internet.seen == []


async def test_the_gateway_has_no_door_but_its_listener(world: EgressWorld, box: Box) -> None:
    """No admin interface on TCP, on whatever address; and what is reached of the listener is judged."""
    await box.allow(secured())
    listening = world.node.run("ss", "-Hltn").stdout.split("\n")
    ports = {line.split()[3].rpartition(":")[2] for line in listening if line}

    assert ports == {"15001"}
    for port in (9901, 9090, 15000, 15001):
        with pytest.raises((ConnectionError, TimeoutError, OSError)):
            await asyncio.wait_for(box.client().connect(NODE, port, tls=False), 0.5)


@pytest.mark.parametrize("host", [NODE, "127.0.0.1", "localhost", "10.213.0.1"])
async def test_the_gateway_is_no_way_to_the_node(world: EgressWorld, box: Box, host: str) -> None:
    """`NODE` is an address of the node that is not private: nothing listens there at ports that are diverted."""
    await box.allow(secured())

    reply = await box.get("http://api.a.test/", host=host)

    assert reply.status == 502
    assert world.internet.seen == []


async def test_the_admin_socket_is_for_root_alone(world: EgressWorld) -> None:
    directory = world.settings.run_dir / "egress" / "admin"

    assert directory.stat().st_mode & 0o077 == 0
    assert (directory / "admin.sock").stat().st_mode & 0o077 == 0


async def test_a_credential_that_a_server_echoes_is_in_no_log(world: EgressWorld, box: Box) -> None:
    """The sandbox can read what a server tells: a rule for a server that echoes headers gives its secret away. What
    is written down has it masked all the same."""
    await box.allow(secured(host="api.a.test"))

    reply = await box.get("https://api.a.test/echo-of-the-header")
    for _ in range(100):
        lines = [str(one) for one in read(world.settings.egress_log) if "echo-of-the-header" in str(one["http"])]
        if lines:
            break
        await asyncio.sleep(0.1)

    assert SECRET in reply.body.decode()
    assert lines
    assert not any(SECRET in line for line in lines)


async def test_a_flood_of_made_up_names_leaves_others_their_certificates(
    world: EgressWorld, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow this machine is, no budget fills up again meanwhile.
    now = time.time()
    monkeypatch.setattr(world.egress._leaves, "_clock", lambda: now)
    victim = world.box()
    await box.allow(rule(host="*.flood.test"))
    await victim.allow(rule(host="*.a.test"), rule(host="other.test"))

    async def shake(number: int) -> bool:
        try:
            _, writer = await box.client().connect("api.a.test", 443, tls=True, sni=f"n{number}.flood.test")
        except (ssl.SSLError, ConnectionError):
            return False
        writer.close()
        return True

    made = []
    for begin in range(0, 240, 40):
        made += await asyncio.gather(*(shake(number) for number in range(begin, begin + 40)))

    assert made.count(True) == 200
    assert (await victim.get("https://www.a.test/")).status == 200
    assert (await victim.get("https://other.test/")).status == 200
