"""What can be reached from where, tried from inside of real namespaces."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cube.model.errors import HostError
from cube.netagent import conntrack, nftables
from cube.netagent.firewall import Firewall
from cube.netagent.links import LinkPool
from cube.settings import Settings
from support import network
from support.network import CONNECT, DATAGRAM, GREET, PING, run, traces

pytestmark = pytest.mark.root
Start = Callable[..., subprocess.Popen[str]]

#: Sends an echo request with the source argv[1] to argv[2], then a true one, and waits for the answer to that.
SPOOF = """
def echo(number):
  words = struct.pack('!BBHHH', 8, 0, 0, 77, number)
  total = sum(struct.unpack('!4H', words)); total = (total & 0xffff) + (total >> 16)
  return struct.pack('!BBHHH', 8, 0, ~total & 0xffff, 77, number)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
answers = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
answers.settimeout(5)
for number, source in enumerate(sys.argv[1:4:2]):
  header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 28, 0, 0, 64, 1, 0, *map(socket.inet_aton, (source, sys.argv[2])))
  raw.sendto(header + echo(number), (sys.argv[2], 0))
print(answers.recv(100)[-1])
"""

#: The host's own setting may keep everybody from the unprivileged kind of ping.
PING_AS_ROOT = """
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
raw.settimeout(wait)
raw.connect((sys.argv[1], 0))
raw.send(bytes.fromhex('0800f7ff00000000'))
assert raw.recv(100)[20] == 0
print('answered')
"""


def sysctl(path: str) -> Path:
    return Path("/proc/sys", path)


@pytest.fixture
def host_port() -> Iterator[int]:
    """A greeter on all addresses of the host."""
    with network.start(GREET) as child:
        assert child.stdout is not None
        yield int(child.stdout.readline())
        child.kill()


async def test_gateway_answers_ping(pool: LinkPool, firewall: Firewall) -> None:
    link = await pool.acquire()
    answer = await run(PING, link.gateway, namespace=link.namespace, uid=64999)
    assert answer == str(link.gateway)
    assert conntrack.forget([link.address]) == 0, "a sandbox could fill the connection table with pings"


async def test_host_is_closed_at_once(pool: LinkPool, firewall: Firewall, host_port: int) -> None:
    link = await pool.acquire()
    assert await run(CONNECT, link.gateway, host_port, namespace=link.namespace) == "ECONNREFUSED"
    assert await run(DATAGRAM, link.gateway, host_port, namespace=link.namespace) == "EHOSTUNREACH"
    await firewall.remove()
    assert await run(CONNECT, link.gateway, host_port, namespace=link.namespace) == "hello"


async def test_other_addresses_of_the_host_are_closed(pool: LinkPool, firewall: Firewall, host_port: int) -> None:
    link, other = await pool.acquire(), await pool.acquire()
    assert await run(CONNECT, other.gateway, host_port, namespace=link.namespace) == "ECONNREFUSED"
    assert await run(PING, other.gateway, namespace=link.namespace, wait=0.3) == "TIMEOUT"


async def test_other_sandboxes_are_closed(pool: LinkPool, firewall: Firewall, start: Start) -> None:
    link, other = await pool.acquire(), await pool.acquire()
    server = start(GREET, namespace=other.namespace)
    port = server.stdout.readline().strip()  # type: ignore[union-attr]
    assert await run(CONNECT, other.address, port, namespace=link.namespace) == "ECONNREFUSED"
    assert await run(DATAGRAM, other.address, port, namespace=link.namespace) == "EHOSTUNREACH"


async def test_without_a_policy_the_world_is_closed_at_once(pool: LinkPool, firewall: Firewall) -> None:
    """TCP is refused; what has no connection is dropped."""
    link = await pool.acquire()
    assert await run(CONNECT, "203.0.113.1", 80, namespace=link.namespace) == "ECONNREFUSED"
    assert await run(DATAGRAM, "203.0.113.1", 53, namespace=link.namespace, wait=0.3) == "TIMEOUT"


async def test_links_lead_nowhere_without_the_table(pool: LinkPool, firewall: Firewall, settings: Settings) -> None:
    """See test_policies for what is allowed otherwise."""
    link = await pool.acquire()
    nftables.run(f"delete table inet {settings.instance}")
    outcome = await run(CONNECT, "203.0.113.1", 80, namespace=link.namespace, wait=0.3)
    assert outcome in ("ENETUNREACH", "EHOSTUNREACH")


async def test_only_the_proxy_may_connect_to_sandboxes(
    pool: LinkPool, firewall: Firewall, settings: Settings, start: Start
) -> None:
    link = await pool.acquire()
    server = start(GREET, namespace=link.namespace, uid=64999)
    port = server.stdout.readline().strip()  # type: ignore[union-attr]
    assert await run(CONNECT, link.address, port, uid=settings.proxy_uid) == "hello"
    assert await run(CONNECT, link.address, port) == "ECONNREFUSED"
    assert await run(CONNECT, link.address, port, uid=65534) == "ECONNREFUSED"
    assert await run(DATAGRAM, link.address, port) == "EPERM"
    assert await run(PING_AS_ROOT, link.address) == "answered"


async def test_proxy_learns_at_once_that_nobody_listens(pool: LinkPool, firewall: Firewall, settings: Settings) -> None:
    link = await pool.acquire()
    assert await run(CONNECT, link.address, 1, uid=settings.proxy_uid) == "ECONNREFUSED"


@pytest.mark.parametrize("guard", ["rules", "reverse path filter"])
async def test_spoofed_sources_are_dropped(pool: LinkPool, firewall: Firewall, guard: str) -> None:
    link, other = await pool.acquire(), await pool.acquire()
    if guard == "rules":
        sysctl(f"net/ipv4/conf/{link.interface}/rp_filter").write_text("0")
    else:
        await firewall.remove()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as listener:
        listener.setblocking(False)
        spoofs = (other.gateway, link.gateway, link.address)
        assert await run(SPOOF, *spoofs, namespace=link.namespace) == "1"
        assert other.gateway.packed not in destinations(listener)


def destinations(listener: socket.socket) -> Iterator[bytes]:
    """Where the ICMP packets that came to the host were sent to."""
    with contextlib.suppress(BlockingIOError):
        while packet := listener.recv(100):
            yield packet[16:20]


async def test_ipv6_is_closed(pool: LinkPool, firewall: Firewall) -> None:
    link = await pool.acquire()
    assert await run("print(open('/proc/net/if_inet6').read())", namespace=link.namespace) == ""
    assert sysctl(f"net/ipv6/conf/{link.interface}/disable_ipv6").read_text() == "1\n"


async def test_install_again_keeps_one_table_and_others(firewall: Firewall, settings: Settings) -> None:
    other = f"{settings.instance}other"
    nftables.run(f"add table inet {other}")
    try:
        before = nftables.run(f"list table inet {settings.instance}")
        await firewall.install()
        assert nftables.run(f"list table inet {settings.instance}") == before
        await firewall.remove()
        await firewall.remove()
        assert traces(settings.instance)["tables"] == [f"table inet {other}"]
    finally:
        nftables.run(f"delete table inet {other}")


async def test_refused_rules_change_nothing(firewall: Firewall, settings: Settings) -> None:
    before = nftables.run(f"list table inet {settings.instance}")
    with pytest.raises(HostError, match="refused the rules"):
        nftables.run(f"delete table inet {settings.instance}\nadd rule inet nonsense nonsense accept\n")
    assert nftables.run(f"list table inet {settings.instance}") == before


async def test_forgetting_connections_cuts_them(
    pool: LinkPool, firewall: Firewall, settings: Settings, start: Start
) -> None:
    link = await pool.acquire()
    server = start(GREET, namespace=link.namespace)
    port = server.stdout.readline().strip()  # type: ignore[union-attr]
    assert await run(CONNECT, link.address, port, uid=settings.proxy_uid) == "hello"
    assert conntrack.forget([link.address]) == 1
    assert conntrack.forget([link.address]) == 0
