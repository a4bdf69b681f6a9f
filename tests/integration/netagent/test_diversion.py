"""Which connections are handed to the gateway for HTTP and HTTPS, and that none of them goes out without it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from cube.netagent import namespaces, nftables
from cube.netagent.forwarding import TABLE
from cube.netagent.links import Link
from cube.netagent.routing import Routing
from cube.settings import Settings
from support.fake_gateway import fake_gateway
from support.machine import HOSTS, MACHINE, UPLINK, Internet
from support.network import DATAGRAM, run
from support.sandbox_links import ALL, Net, net, policy

pytestmark = pytest.mark.root

NEAR, OTHER, FAR, _ = HOSTS
HELLO = """
try:
  with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=wait) as s: print(s.recv(100).decode())
except TimeoutError: print('TIMEOUT')
except OSError as e: print(errno.errorcode[e.errno])
"""


def rule(**match: Any) -> dict[str, Any]:
    return {"match": match, "action": {"allow": True}}


@pytest.fixture
def gateway(ground: Net, settings: Settings) -> Iterator[None]:
    with fake_gateway(settings.egress_port):
        yield


async def hello(link: Link, host: str, port: int = 80, wait: float = 5) -> str:
    return await run(HELLO, host, port, namespace=link.namespace, wait=wait)


async def test_e4_flagged_destinations_alone_are_diverted_per_sandbox(ground: Net, gateway: None) -> None:
    """A has a rule for one host and meets the gateway there, at ports 80 and 443; everything else goes out directly. B
    has none and meets the host itself."""
    a, b = await ground.link(rules=[rule(host=NEAR)]), await ground.link()
    assert await hello(a, NEAR) == f"gateway {NEAR}:80 from {a.address}"
    assert await hello(a, NEAR, 443) == f"gateway {NEAR}:443 from {a.address}"
    assert await hello(a, NEAR, 8080) == f"{NEAR} {MACHINE}"
    assert await hello(a, FAR) == f"{FAR} {MACHINE}"
    assert await hello(b, NEAR) == f"{NEAR} {MACHINE}"


async def test_e4_a_port_that_a_rule_names_is_diverted_for_its_sandbox_alone(ground: Net, gateway: None) -> None:
    """Besides 80 and 443; over UDP it is closed as they are, and taken back with the rule."""
    named = [rule(host=f"{NEAR}:8080")]
    a, b = await ground.link(rules=named), await ground.link(rules=[rule(host=NEAR)])
    assert await hello(a, NEAR, 8080) == f"gateway {NEAR}:8080 from {a.address}"
    assert await hello(a, NEAR, 443) == f"gateway {NEAR}:443 from {a.address}"
    assert await hello(a, FAR, 8080) == f"{FAR} {MACHINE}"
    assert await run(DATAGRAM, NEAR, 8080, namespace=a.namespace, wait=0.3) == "TIMEOUT"
    assert await hello(b, NEAR, 8080) == f"{NEAR} {MACHINE}"
    ground.policies.set(a.address, policy(rules=named, deny_out=[ALL]))
    assert await hello(a, NEAR, 8080) == f"gateway {NEAR}:8080 from {a.address}"
    ground.policies.set(a.address, policy(rules=[rule(host=NEAR)]))
    assert await hello(a, NEAR, 8080) == f"{NEAR} {MACHINE}"


async def test_e4_what_only_a_rule_allows_is_reached_through_the_gateway_alone(ground: Net, gateway: None) -> None:
    link = await ground.link(rules=[rule(host=NEAR)], deny_out=[ALL])
    assert await hello(link, NEAR, 443) == f"gateway {NEAR}:443 from {link.address}"
    assert await hello(link, NEAR, 8080) == "ECONNREFUSED"
    assert await hello(link, OTHER, 443) == "ECONNREFUSED"


async def test_e4_an_allowed_network_does_not_unflag_a_host(ground: Net, gateway: None) -> None:
    link = await ground.link(rules=[rule(host=NEAR)], deny_out=[ALL], allow_out=["203.0.113.0/24"])
    assert await hello(link, NEAR) == f"gateway {NEAR}:80 from {link.address}"
    assert await hello(link, OTHER) == f"{OTHER} {MACHINE}"


async def test_e4_a_rule_without_a_host_flags_everything(ground: Net, gateway: None) -> None:
    link = await ground.link(rules=[rule(method=["GET"])])
    assert await hello(link, FAR) == f"gateway {FAR}:80 from {link.address}"
    assert await hello(link, FAR, 8080) == f"{FAR} {MACHINE}"
    assert await hello(link, "10.99.0.1") == "ECONNREFUSED"


@pytest.mark.parametrize("allowed", [[], [ALL]])
async def test_quic_does_not_pass_by_the_gateway(ground: Net, gateway: None, allowed: list[str]) -> None:
    """UDP 443 of a host with rules is closed, also where everything is allowed: clients fall back to TCP."""
    link = await ground.link(rules=[rule(host=NEAR)], allow_out=allowed)
    assert await run(DATAGRAM, NEAR, 443, namespace=link.namespace, wait=0.3) == "TIMEOUT"
    assert await run(DATAGRAM, NEAR, 8080, namespace=link.namespace) == f"{NEAR} {MACHINE}"
    assert await run(DATAGRAM, FAR, 443, namespace=link.namespace) == f"{FAR} {MACHINE}"


async def test_e16_without_the_gateway_flagged_connections_fail_and_others_do_not(ground: Net) -> None:
    """Refused at once; nothing goes out directly."""
    link = await ground.link(rules=[rule(host=NEAR)])
    assert await hello(link, NEAR) == "ECONNREFUSED"
    assert await hello(link, NEAR, 443) == "ECONNREFUSED"
    assert await hello(link, FAR) == f"{FAR} {MACHINE}"


async def test_rules_that_are_taken_away_and_come_back(ground: Net, gateway: None) -> None:
    link = await ground.link(rules=[rule(host=NEAR)])
    assert (await hello(link, NEAR)).startswith("gateway")
    ground.policies.set(link.address, policy())
    assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"
    ground.policies.set(link.address, policy(rules=[rule(host=NEAR)]))
    assert (await hello(link, NEAR)).startswith("gateway")


async def test_e3_up_twice_is_up_once_and_down_leaves_nothing(internet: Internet, settings: Settings) -> None:
    routing = Routing(settings)
    before = shown()
    assert not routing.status().complete
    routing.up()
    once = shown()
    assert routing.status().complete
    routing.up()
    assert shown() == once
    assert len(once.splitlines()) == len(before.splitlines()) + 4
    routing.down()
    assert shown() == before
    routing.down()
    assert (routing.status().rules, routing.status().table) == (0, False)


async def test_e3_what_others_took_away_is_put_back(ground: Net, gateway: None) -> None:
    """Programs that configure networks remove rules that are not theirs: until they are back, nothing is let out."""
    link = await ground.link(rules=[rule(host=NEAR)])
    await asyncio.to_thread(ip, "rule flush")
    await asyncio.to_thread(ip, "rule add pref 32766 lookup main")
    assert "gateway" not in await hello(link, NEAR, wait=0.5)
    await ground.firewall.maintain()
    assert (await hello(link, NEAR)).startswith("gateway")


async def test_e3_two_instances_have_rules_of_their_own(internet: Internet, settings: Settings) -> None:
    other = Routing(Settings(instance="other", network_cidr="10.77.0.0/24"))
    routing = Routing(settings)
    other.up()
    alone = shown()
    routing.up()
    routing.down()
    assert shown() == alone
    assert other.status().complete


async def test_forwarding_is_switched_back_by_the_last_instance(internet: Internet, settings: Settings) -> None:
    """And left alone where somebody has turned the machine into a router meanwhile."""
    second = Settings(instance=f"{settings.instance}b", network_cidr="10.77.0.0/24")
    async with net(settings):
        async with net(second):
            assert forwarding(UPLINK) == "1"
        assert forwarding(UPLINK) == "1"
        assert forwarding("lo") == "0"
    assert forwarding(UPLINK) == "0"
    assert TABLE not in nftables.run("list tables")


async def test_forwarding_that_is_somebody_else_s_stays(internet: Internet, settings: Settings) -> None:
    async with net(settings) as made:
        namespaces.write_sysctl("net/ipv4/ip_forward", "1")
        await made.firewall.maintain()
    assert forwarding(UPLINK) == "1"


def forwarding(interface: str) -> str:
    name = f"net.ipv4.conf.{interface}.forwarding"
    return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True).stdout.strip()


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def shown() -> str:
    """All rules and routes."""
    commands = (["ip", "rule"], ["ip", "route", "show", "table", "all"])
    return "".join(subprocess.run(one, capture_output=True, text=True, check=True).stdout for one in commands)
