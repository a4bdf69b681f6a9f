"""The resolver of the gateways: what it answers, what it opens, and what nobody can make it open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cube.netagent import conntrack, nftables
from cube.netagent.agent import NetworkAgent
from cube.netagent.links import Link
from cube.settings import Settings
from support.dns_server import DIG, SERVER, name_server
from support.fake_gateway import fake_gateway
from support.machine import HOSTS, MACHINE, Internet, greeters, machine
from support.network import run, start
from support.sandbox_links import ALL, config

pytestmark = pytest.mark.root

NEAR, OTHER, FAR, LAST = HOSTS
CLOSED = {"deny_out": [ALL]}
FOREIGN = "203.0.113.99"
ZONE: dict[str, Any] = {
    "a.test": {"A": [NEAR]},
    "b.test": {"A": [OTHER]},
    "x.a.test": {"A": [FAR]},
    "y.x.a.test": {"A": [LAST]},
    "alias.test": {"CNAME": "middle.test"},
    "middle.test": {"CNAME": "end.test"},
    "end.test": {"A": [FAR]},
    "loop.test": {"CNAME": "loop2.test"},
    "loop2.test": {"A": []},
    "brief.test": {"A": [NEAR], "ttl": 1},
    "rebind.test": {"A": ["169.254.169.254", "10.99.0.1", "127.0.0.1", NEAR]},
    "many.test": {"A": [f"203.0.113.{n}" for n in range(10, 60)]},
    "cut.test": {"A": [NEAR], "cut": True},
    "lied.test": {"A": [NEAR], "lies": OTHER},
    "silent.test": {"silent": True},
}
HELLO = """
try:
  with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=wait) as s: print(s.recv(100).decode())
except TimeoutError: print('TIMEOUT')
except OSError as e: print(errno.errorcode[e.errno])
"""


@dataclass
class Ground:
    agent: NetworkAgent
    log: Path

    async def link(self, **parts: Any) -> Link:
        link = await self.agent.veths.acquire()
        await self.agent.attach(f"sandbox{link.index}", link, config(**parts))
        return link

    async def update(self, link: Link, **parts: Any) -> None:
        await self.agent.update(f"sandbox{link.index}", config(**parts))

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "asked"


@pytest.fixture
def internet(log: Path) -> Iterator[Internet]:
    with machine() as internet, greeters(internet), name_server(internet, ZONE, str(log)):
        yield internet


@pytest.fixture
async def ground(internet: Internet, make_settings: Callable[..., Settings], log: Path) -> AsyncIterator[Ground]:
    agent = NetworkAgent(make_settings(dns_servers=SERVER))
    try:
        await agent.start()
        await agent.veths.start()
        yield Ground(agent, log)
    finally:
        await agent.close(remove=True)


async def dig(link: Link, name: str, way: str = "udp", server: str = "", wait: float = 8) -> str:
    answer = await run(DIG, server or link.gateway, name, way, namespace=link.namespace, wait=wait)
    return " ".join(answer.split())


async def hello(link: Link, host: str, port: int = 80, wait: float = 5) -> str:
    return await run(HELLO, host, port, namespace=link.namespace, wait=wait)


async def test_e8_every_name_resolves_and_allowed_ones_connect(ground: Ground) -> None:
    link = await ground.link(allow_out=["a.test"], **CLOSED)
    assert await dig(link, "a.test") == f"NOERROR {NEAR}"
    assert await dig(link, "b.test") == f"NOERROR {OTHER}"
    assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"
    assert await hello(link, OTHER) == "ECONNREFUSED"


async def test_e8_before_the_name_is_asked_its_address_is_closed(ground: Ground) -> None:
    link = await ground.link(allow_out=["a.test"], **CLOSED)
    assert await hello(link, NEAR) == "ECONNREFUSED"
    await dig(link, "a.test")
    assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"


async def test_e8_one_sandbox_s_answer_opens_nothing_for_another(ground: Ground) -> None:
    first, second = [await ground.link(allow_out=["a.test"], **CLOSED) for _ in range(2)]
    await dig(first, "a.test")
    assert await hello(second, NEAR) == "ECONNREFUSED"


@pytest.mark.parametrize(
    ("name", "address", "outcome"),
    [
        ("x.a.test", FAR, f"{FAR} {MACHINE}"),
        ("y.x.a.test", LAST, f"{LAST} {MACHINE}"),
        ("X.A.Test", FAR, f"{FAR} {MACHINE}"),
        ("a.test", NEAR, "ECONNREFUSED"),
    ],
)
async def test_e8_wildcards_mean_any_depth_and_not_the_apex(
    ground: Ground, name: str, address: str, outcome: str
) -> None:
    link = await ground.link(allow_out=["*.a.test"], **CLOSED)
    assert address in await dig(link, name)
    assert await hello(link, address) == outcome


async def test_e8_a_name_leads_on_to_others(ground: Ground) -> None:
    """CNAME chains: what counts is the name that was asked for."""
    link = await ground.link(allow_out=["alias.test"], **CLOSED)
    assert await dig(link, "end.test") == f"NOERROR {FAR}"
    assert await hello(link, FAR) == "ECONNREFUSED"
    assert FAR in await dig(link, "alias.test")
    assert await hello(link, FAR) == f"{FAR} {MACHINE}"


async def test_e8_an_address_is_good_for_as_long_as_the_answer(ground: Ground) -> None:
    """New connections are refused afterwards; one that is open goes on."""
    link = await ground.link(allow_out=["brief.test"], **CLOSED)
    await dig(link, "brief.test")
    open_one = f"""
s = socket.create_connection(({NEAR!r}, 80), timeout=5); s.recv(100); print('open', flush=True)
sys.stdin.readline(); s.sendall(b'still'); print(s.recv(100).decode())
"""
    child = start(open_one, namespace=link.namespace)
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    for _ in range(100):
        if await hello(link, NEAR) == "ECONNREFUSED":
            break
        await asyncio.sleep(0.2)
    else:
        pytest.fail("the address stays open")
    assert child.communicate("\n", timeout=10)[0] == "still\n"


async def test_e8_eight_addresses_count(ground: Ground) -> None:
    link = await ground.link(allow_out=["many.test"], **CLOSED)
    await dig(link, "many.test", "tcp")
    listed = nft(ground, "learned")
    assert listed.count(str(link.address)) == 8


def nft(ground: Ground, name: str) -> str:
    table = ground.agent._firewall._settings.instance
    return nftables.run(f"list map inet {table} {name}")


async def test_private_addresses_of_an_answer_open_nothing(ground: Ground) -> None:
    """DNS rebinding: the owner of an allowed name says that it lives at the metadata service."""
    link = await ground.link(allow_out=["rebind.test"], **CLOSED)
    assert "169.254.169.254" in await dig(link, "rebind.test")
    assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"
    assert await hello(link, "169.254.169.254") == "ECONNREFUSED"
    assert await hello(link, "10.99.0.1") == "ECONNREFUSED"


async def test_strict_answers_allowed_names_alone(ground: Ground) -> None:
    """So that questions carry nothing out: the server never hears of the others."""
    link = await ground.link(allow_out=["a.test"], dns="strict", **CLOSED)
    assert await dig(link, "a.test") == f"NOERROR {NEAR}"
    assert await dig(link, "c2VjcmV0.evil.test") == "REFUSED"
    assert await dig(link, "b.test", "tcp") == "REFUSED"
    assert ground.asked() == ["udp a.test 1"]


async def test_f3_no_internet_access_closes_names(ground: Ground) -> None:
    """``dig`` gets no answer, from the gateway and from everybody else."""
    link = await ground.link(allow_internet_access=False)
    assert await dig(link, "a.test", wait=0.5) == "TIMEOUT"
    assert await dig(link, "a.test", server=SERVER, wait=0.5) == "TIMEOUT"
    assert ground.asked() == []


async def test_f3_names_that_are_allowed_all_the_same_are_answered(ground: Ground) -> None:
    link = await ground.link(allow_internet_access=False, allow_out=["a.test"])
    assert await dig(link, "b.test") == "REFUSED"
    assert await dig(link, "a.test") == f"NOERROR {NEAR}"
    assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"


async def test_f1_a_restrictive_policy_does_not_cut_off_the_resolver(ground: Ground) -> None:
    link = await ground.link(allow_out=["1.2.3.4/32"], dns_servers=[SERVER], **CLOSED)
    assert await dig(link, "b.test") == f"NOERROR {OTHER}"
    assert await dig(link, "b.test", server=SERVER) == f"NOERROR {OTHER}"


async def test_an_answer_of_a_server_of_the_sandbox_s_own_choice_opens_nothing(
    ground: Ground, internet: Internet, log: Path
) -> None:
    """A foreign resolver says that an allowed name lives at another address: it may be asked, and changes nothing. By a
    policy that denies the rest it cannot even be asked, whatever the port: no tunnel through it."""
    lies = {"a.test": {"A": [OTHER]}}
    with name_server(internet, lies, str(log), FOREIGN):
        link = await ground.link(allow_out=["a.test", FOREIGN], **CLOSED)
        assert await dig(link, "a.test", server=FOREIGN) == f"NOERROR {OTHER}"
        assert await hello(link, OTHER) == "ECONNREFUSED"
        closed = await ground.link(allow_out=["a.test"], **CLOSED)
        assert await dig(closed, "a.test", server=FOREIGN, wait=0.5) == "TIMEOUT"
        assert await dig(closed, "a.test", "tcp", server=FOREIGN) == "ECONNREFUSED"


async def test_servers_of_a_policy_are_asked_instead_of_the_node_s(
    ground: Ground, internet: Internet, log: Path
) -> None:
    with name_server(internet, {"a.test": {"A": [LAST]}}, str(log), FOREIGN):
        link = await ground.link(dns_servers=[FOREIGN])
        assert await dig(link, "a.test") == f"NOERROR {LAST}"


async def test_large_answers_come_over_tcp(ground: Ground) -> None:
    link = await ground.link(allow_out=["cut.test"], **CLOSED)
    assert await dig(link, "cut.test") == "NOERROR TC"
    assert await dig(link, "cut.test", "tcp") == f"NOERROR {NEAR}"
    assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"
    assert await dig(link, "many.test") == "NOERROR TC", "more than 512 bytes, for a client that takes no more"


async def test_forged_answers_are_passed_over(ground: Ground) -> None:
    """A wrong number, an answer to something else, nonsense: the true answer counts, and the lies open nothing."""
    link = await ground.link(allow_out=["lied.test"], **CLOSED)
    assert await dig(link, "lied.test") == f"NOERROR {NEAR}"
    assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"
    assert await hello(link, OTHER) == "ECONNREFUSED"


async def test_what_does_not_exist_and_who_does_not_answer(ground: Ground) -> None:
    link = await ground.link()
    assert await dig(link, "nosuch.test") == "NXDOMAIN"
    assert await dig(link, "silent.test", wait=15) == "SERVFAIL"
    assert await dig(link, "loop.test") == "NOERROR"


async def test_nonsense_is_not_answered_and_harms_nobody(ground: Ground) -> None:
    link = await ground.link()
    noise = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.5); s.connect((sys.argv[1], 53))
for data in (b'', b'x', bytes(12), bytes(512), os.urandom(600), b'\\xff' * 1400): s.send(data)
t = socket.create_connection((sys.argv[1], 53), timeout=5); t.sendall(b'\\xff\\xff' + os.urandom(3000))
try: print(len(s.recv(100)))
except TimeoutError: print('TIMEOUT')
"""
    assert await run(noise, link.gateway, namespace=link.namespace) == "TIMEOUT"
    assert await dig(link, "a.test") == f"NOERROR {NEAR}"


async def test_a_flood_of_questions_is_cut_and_others_are_answered(ground: Ground) -> None:
    """Of thousands at once some hundreds reach the server; the neighbour notices nothing."""
    link, neighbour = await ground.link(), await ground.link()
    flood = """
name = lambda n: b'\\x06' + b'%06d' % n + b'\\x04test\\0'
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(5000):
  s.sendto(struct.pack('!HHHHHH', n, 0x0100, 1, 0, 0, 0) + name(n) + struct.pack('!HH', 1, 1), (sys.argv[1], 53))
"""
    await run(flood, link.gateway, namespace=link.namespace)
    assert await dig(neighbour, "a.test") == f"NOERROR {NEAR}"
    assert len(ground.asked()) < 2000


async def test_the_resolver_s_own_port_is_nobody_s_door(ground: Ground, internet: Internet) -> None:
    """Neither the internet nor the machine reaches it, nor a sandbox past the rules for port 53."""
    port = ground.agent._dns_port
    link = await ground.link(allow_internet_access=False)
    for namespace, target in ((internet.namespace, MACHINE), (None, MACHINE), (link.namespace, str(link.gateway))):
        code = DIG.replace(", 53)", f", {port})")
        answer = await run(code, target, "a.test", namespace=namespace, wait=0.5)
        assert answer in ("TIMEOUT", "EHOSTUNREACH", "ECONNREFUSED")


async def test_questions_take_no_entries_in_the_connection_table(ground: Ground) -> None:
    link = await ground.link()
    for _ in range(3):
        await dig(link, "a.test")
        await dig(link, "a.test", "tcp")
    assert conntrack.forget([link.address]) == 0


async def test_names_with_rules_lead_to_the_gateway(ground: Ground) -> None:
    """Through the answer for the name, so at its addresses alone, and in no other way when only the rule allows."""
    rule = {"match": {"host": "a.test"}, "action": {"allow": True}}
    with fake_gateway(ground.agent._firewall._settings.egress_port):
        link = await ground.link(rules=[rule], allow_out=["b.test"], **CLOSED)
        await dig(link, "a.test")
        await dig(link, "b.test")
        assert await hello(link, NEAR) == f"gateway {NEAR}:80 from {link.address}"
        assert await hello(link, NEAR, 8080) == "ECONNREFUSED"
        assert await hello(link, OTHER) == f"{OTHER} {MACHINE}"


async def test_a_change_of_policy_keeps_what_was_learned_and_still_holds(ground: Ground) -> None:
    link = await ground.link(allow_out=["a.test", "b.test"], **CLOSED)
    await dig(link, "a.test")
    await dig(link, "b.test")
    await ground.update(link, allow_out=["a.test"], **CLOSED)
    assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"
    assert await hello(link, OTHER) == "ECONNREFUSED"


async def test_a_restart_forgets_no_address(ground: Ground) -> None:
    """Answers that sandboxes have are good after a restart of the service too."""
    link = await ground.link(allow_out=["a.test"], **CLOSED)
    await dig(link, "a.test")
    settings = ground.agent._firewall._settings
    second = NetworkAgent(settings.model_copy(update={"seat_pool": 0}))
    try:
        await second.start()
        await second.attach("again", link, config(allow_out=["a.test"], **CLOSED))
        assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"
        await second.update("again", config(allow_out=["a.test"], deny_out=[ALL, "1.1.1.1"]))
        assert await dig(link, "a.test") == f"NOERROR {NEAR}"
        assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"
    finally:
        await second.close()
