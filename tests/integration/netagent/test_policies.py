"""What a policy lets through and what it does not, from inside of real namespaces, towards an internet of the test."""

from __future__ import annotations

import pytest

from cube.netagent import conntrack, namespaces, nftables
from cube.settings import Settings
from support.machine import HOSTS, MACHINE, PRIVATE_HOSTS, Internet
from support.network import DATAGRAM, GREET, PING, run, start
from support.sandbox_links import ALL, Net, policy

pytestmark = pytest.mark.root

NEAR, OTHER, FAR, _ = HOSTS
#: Connects to argv[1]:argv[2], prints the greeting, and after each line of input what comes back of it, or the error.
TALK = """
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=wait)
print(s.recv(100).decode().strip(), flush=True)
for line in sys.stdin:
  try: s.sendall(line.encode()); print(s.recv(100).decode().strip() or 'END', flush=True)
  except OSError as e: print(errno.errorcode.get(e.errno, 'TIMEOUT'), flush=True)
"""
HELLO = """
try:
  with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=wait) as s: print(s.recv(100).decode())
except TimeoutError: print('TIMEOUT')
except OSError as e: print(errno.errorcode[e.errno])
"""


async def hello(link: object, host: str, port: int = 80, wait: float = 5) -> str:
    return await run(HELLO, host, port, namespace=link.namespace, wait=wait)  # type: ignore[attr-defined]


async def test_without_a_word_the_internet_is_open(ground: Net) -> None:
    """TCP, UDP and pings, to everybody who comes from the machine's own address."""
    link = await ground.link()
    assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"
    assert await hello(link, FAR, 8080) == f"{FAR} {MACHINE}"
    assert await run(DATAGRAM, FAR, 443, namespace=link.namespace) == f"{FAR} {MACHINE}"
    assert await run(PING, FAR, namespace=link.namespace) == FAR


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
async def test_private_addresses_are_closed(ground: Net, host: str) -> None:
    """TCP at once, UDP and pings without a word."""
    link = await ground.link(allow_out=[ALL])
    assert await hello(link, host) == "ECONNREFUSED"
    assert await run(DATAGRAM, host, 53, namespace=link.namespace, wait=0.3) == "TIMEOUT"
    assert await run(PING, host, namespace=link.namespace, wait=0.3) == "TIMEOUT"


async def test_private_addresses_can_be_allowed_by_name_of_their_network(ground: Net) -> None:
    link = await ground.link(allow_out=["10.99.0.0/16"])
    assert await hello(link, "10.99.0.1") == f"10.99.0.1 {MACHINE}"
    assert await hello(link, "172.16.9.1") == "ECONNREFUSED"


async def test_unknown_is_closed(ground: Net) -> None:
    """A link without a policy, and one whose policy was taken away."""
    link = await ground.pool.acquire()
    assert await hello(link, NEAR) == "ECONNREFUSED"
    ground.policies.set(link.address, policy())
    assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"
    ground.policies.clear(link.address)
    assert await hello(link, NEAR) == "ECONNREFUSED"


async def test_no_internet_access(ground: Net) -> None:
    link = await ground.link(allow_internet_access=False, allow_out=[OTHER])
    assert await hello(link, NEAR) == "ECONNREFUSED"
    assert await run(DATAGRAM, NEAR, 53, namespace=link.namespace, wait=0.3) == "TIMEOUT"
    assert await hello(link, OTHER) == f"{OTHER} {MACHINE}"


async def test_allowed_before_denied_before_open(ground: Net) -> None:
    link = await ground.link(allow_out=[OTHER, "198.51.100.0/28"], deny_out=["203.0.113.0/24", FAR])
    assert await hello(link, NEAR) == "ECONNREFUSED"
    assert await hello(link, OTHER) == f"{OTHER} {MACHINE}"
    assert await hello(link, FAR) == f"{FAR} {MACHINE}"


async def test_policies_do_not_meet(ground: Net) -> None:
    """What one sandbox may is no other's."""
    closed, opened = await ground.link(deny_out=[ALL]), await ground.link()
    assert await hello(opened, NEAR) == f"{NEAR} {MACHINE}"
    assert await hello(closed, NEAR) == "ECONNREFUSED"


async def test_host_and_other_sandboxes_are_closed_whatever_is_allowed(ground: Net, settings: Settings) -> None:
    everything = [ALL, "10.0.0.0/8", "127.0.0.0/8", settings.network_cidr, MACHINE, "198.18.0.0/15"]
    link, other = await ground.link(allow_out=everything), await ground.link()
    with start(GREET, namespace=other.namespace) as inside, start(GREET) as host:
        ports = [process.stdout.readline().strip() for process in (inside, host) if process.stdout is not None]
        assert await hello(link, str(other.address), int(ports[0])) == "ECONNREFUSED"
        for address in (link.gateway, other.gateway, MACHINE):
            assert await hello(link, str(address), int(ports[1])) == "ECONNREFUSED"
        inside.kill()
        host.kill()


async def test_change_cuts_what_is_not_allowed_any_more_and_nothing_else(ground: Net) -> None:
    """Two connections are open; one of the two destinations is denied. Then everything is."""
    link = await ground.link()
    with talking(link.namespace, NEAR) as cut, talking(link.namespace, FAR) as kept:
        assert (ask(cut), ask(kept)) == ("x", "x")
        ground.policies.set(link.address, policy(deny_out=[NEAR]))
        assert ask(cut) in ("ECONNRESET", "ECONNREFUSED", "EPIPE")
        assert ask(kept) == "x"
        ground.policies.set(link.address, policy(deny_out=[ALL]))
        assert ask(kept) in ("ECONNRESET", "ECONNREFUSED", "EPIPE")


async def test_change_cuts_answers_too(ground: Net, internet: Internet) -> None:
    """A host that goes on sending gets nothing in, although the sandbox itself says nothing."""
    link = await ground.link()
    assert await run(DATAGRAM, NEAR, 8080, namespace=link.namespace) == f"{NEAR} {MACHINE}"
    assert conntrack.forget_flows({link.address: lambda flow: False}) == 0
    ground.policies.set(link.address, policy(deny_out=[ALL]))
    assert conntrack.forget([link.address]) == 0


async def test_same_policy_again_touches_nothing(ground: Net) -> None:
    link = await ground.link(deny_out=[NEAR], allow_out=[FAR])
    with talking(link.namespace, FAR) as open_one:
        before = nftables.run(f"list table inet {ground.settings.instance}")
        ground.policies.set(link.address, policy(deny_out=[NEAR], allow_out=[FAR]))
        assert nftables.run(f"list table inet {ground.settings.instance}") == before
        assert ask(open_one) == "x"


async def test_policies_survive_a_restart_of_the_service(ground: Net, settings: Settings) -> None:
    """Rules are renewed and policies read back; connections go on all the while."""
    link = await ground.link(deny_out=[NEAR])
    with talking(link.namespace, FAR) as open_one:
        ground.policies.close()
        await ground.firewall.install()
        assert ask(open_one) == "x"
        ground.policies.open()
        assert ground.policies.addresses() == {link.address}
        ground.policies.set(link.address, policy(deny_out=[NEAR]))
        assert ask(open_one) == "x"
        ground.policies.set(link.address, policy(deny_out=[ALL]))
        assert ask(open_one) != "x"


async def test_e16_without_the_table_nothing_goes_out(ground: Net) -> None:
    """Reloading a firewall often empties all tables: the machine's routing closes then, and the table comes back."""
    link = await ground.link()
    nftables.run("flush ruleset")
    assert await hello(link, NEAR, wait=0.5) in ("ENETUNREACH", "EHOSTUNREACH")
    assert NEAR not in await run(DATAGRAM, NEAR, 53, namespace=link.namespace, wait=0.3)
    assert not await ground.firewall.present()
    await ground.firewall.install()
    ground.policies.rebuild()
    assert await hello(link, NEAR) == f"{NEAR} {MACHINE}"


async def test_the_machine_becomes_no_router_for_others(ground: Net, internet: Internet) -> None:
    """A host of the internet sends something through the machine: to another host, and to a sandbox."""
    link = await ground.link()
    internet.ip(f"route add {link.address} via {MACHINE}")
    internet.ip(f"route add 192.0.2.0/24 via {MACHINE}")
    with start(GREET, namespace=link.namespace) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        assert await run(HELLO, link.address, port, namespace=internet.namespace, wait=0.5) == "ECONNREFUSED"
        assert await run(DATAGRAM, "192.0.2.7", 53, namespace=internet.namespace, wait=0.3) == "TIMEOUT"
        server.kill()


async def test_connections_are_counted(ground: Net) -> None:
    """The table of connections is one for the machine: a sandbox gets its part of it."""
    link = await ground.link(limits={"connections": 16})
    many = f"""
opened = []
for number in range(20):
  try: opened.append(socket.create_connection(({NEAR!r}, 80), timeout=5))
  except OSError as e: print(number, errno.errorcode[e.errno]); break
opened.pop().close()
"""
    assert await run(many, namespace=link.namespace) == "16 ECONNREFUSED"
    other = await ground.link()
    assert await hello(other, NEAR) == f"{NEAR} {MACHINE}"


async def test_datagrams_count_as_connections_too(ground: Net) -> None:
    link = await ground.link(limits={"connections": 64})
    flood = f"""
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1024, 3024): s.sendto(b'x', ({NEAR!r}, port))
"""
    await run(flood, namespace=link.namespace)
    assert conntrack.forget([link.address]) <= 64


async def test_bytes_per_second_are_limited(ground: Net, internet: Internet) -> None:
    """In both directions: much less arrives than is sent, of datagrams that nobody sends again."""
    link = await ground.link(limits={"bytes_per_second": 20_000})
    burst = f"""
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(({NEAR!r}, 8080)); s.settimeout(0.3)
for _ in range(500): s.send(bytes(1000))
heard = 0
try:
  while s.recv(2000): heard += 1
except TimeoutError: print(heard)
"""
    assert 50 <= int(await run(burst, namespace=link.namespace)) <= 200


@pytest.mark.parametrize("guard", ["rules", "reverse path filter"])
async def test_spoofed_sources_do_not_get_out(ground: Net, internet: Internet, guard: str) -> None:
    """Neither another sandbox's address, nor one of the internet's, nor the machine's."""
    link, other = await ground.link(), await ground.link()
    if guard == "rules":
        namespaces.write_sysctl(f"net/ipv4/conf/{link.interface}/rp_filter", "0")
    send = f"""
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for source in sys.argv[1:]:
  udp = struct.pack('!HHHH', 7, 9, 8 + len(source), 0) + source.encode()
  ends = map(socket.inet_aton, (source, {FAR!r}))
  header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, *ends)
  raw.sendto(header + udp, ({FAR!r}, 0))
"""
    listen = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(({FAR!r}, 9)); s.settimeout(5)
print('up', flush=True); print(s.recv(100).decode(), flush=True)
"""
    with internet.program(listen) as listener:
        await run(send, other.address, "198.51.100.77", MACHINE, link.address, namespace=link.namespace)
        assert listener.stdout is not None
        assert listener.stdout.readline().strip() == str(link.address)


async def test_fragments_are_judged_as_the_whole(ground: Net) -> None:
    """A datagram of several fragments: put together before it is judged, so it goes where it may, and nowhere else."""
    link = await ground.link(allow_out=[NEAR], deny_out=[ALL])
    large = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(wait); s.connect((sys.argv[1], 8080)); s.send(bytes(4000))
try: print(s.recv(100).decode())
except TimeoutError: print('TIMEOUT')
"""
    assert await run(large, NEAR, namespace=link.namespace) == f"{NEAR} {MACHINE}"
    assert await run(large, OTHER, namespace=link.namespace, wait=0.3) == "TIMEOUT"


async def test_other_protocols_are_closed(ground: Net, internet: Internet) -> None:
    """Tunnels (IPv4 and IPv6 in IPv4, GRE) and everything that is neither TCP nor UDP nor a ping."""
    link = await ground.link()
    send = f"""
for protocol in (4, 41, 47, 50, 132):
  raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
  raw.sendto(b'x' * 40, ({FAR!r}, 0))
"""
    listen = """
import select, socket
all = [socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) for protocol in (4, 41, 47, 50, 132)]
print('up', flush=True); print(len(select.select(all, [], [], 0.5)[0]), flush=True)
"""
    with internet.program(listen) as listener:
        await run(send, namespace=link.namespace)
        assert listener.stdout is not None
        assert listener.stdout.readline() == "0\n"


class talking:
    """A connection that is kept open."""

    def __init__(self, namespace: int, host: str, port: int = 80) -> None:
        self.process = start(TALK, host, port, namespace=namespace)
        self.greeting = self._line()

    def __enter__(self) -> talking:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def ask(connection: talking) -> str:
    """Say something and return what comes back."""
    assert connection.process.stdin is not None
    connection.process.stdin.write("x\n")
    connection.process.stdin.flush()
    return connection._line()
