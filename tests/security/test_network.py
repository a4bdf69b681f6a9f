"""From a sandbox to everything else that has an address."""

from __future__ import annotations

import fcntl
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from cube.model.network import NetworkConfig
from security.ground import Box, Ground

#: How a connection that is not allowed ends, at once.
CLOSED = {"ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EACCES", "EPERM", "ENETDOWN", "EADDRNOTAVAIL"}

CONNECT = """
def connect(address, port, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, kind) as client:
        client.settimeout(5)
        scope = (0, socket.if_nametoindex('eth0')) if address.startswith('fe80') else ()
        client.connect((address, port, *scope))
def send(address, port, source=None):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if source:
            client.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
            client.bind((source, 0))
        client.sendto(b'from inside', (address, port))
"""


@contextmanager
def listeners() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP and a UDP socket of the host, on all of its addresses and one port."""
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("0.0.0.0", tcp.getsockname()[1]))
        for sock in (tcp, udp):
            sock.setblocking(False)
        yield tcp, udp


def nothing_came(tcp: socket.socket, udp: socket.socket) -> bool:
    """Whether neither of them heard anything."""
    for receive in (tcp.accept, lambda: udp.recv(64)):
        try:
            receive()
        except BlockingIOError:
            continue
        return False
    return True


def host_addresses() -> list[str]:
    """All IPv4 addresses of all interfaces of the host."""
    output = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"inet ([\d.]+)", output)


def test_no_service_of_the_host_can_be_reached(sandbox: Box) -> None:
    """A wildcard listener of the host, by the gateway and by every address that the host has (Docker lets containers
    do all of this): TCP is refused at once, UDP does not arrive."""
    addresses = sorted({sandbox.gateway, *host_addresses()} - {"127.0.0.1"})
    with listeners() as (tcp, udp):
        port = tcp.getsockname()[1]
        outcomes = sandbox.probe(f"""{CONNECT}
tell([[outcome(connect, address, {port}), outcome(send, address, {port})] for address in {addresses!r}])
""")  # fmt: skip
        assert {tcp_outcome for tcp_outcome, _ in outcomes} <= CLOSED, outcomes
        assert nothing_came(tcp, udp)


def test_loopback_is_the_sandbox_s_own(sandbox: Box) -> None:
    """127.0.0.1 and ::1 of the host belong to the host: services there trust whoever connects."""
    with listeners() as (tcp, udp):
        port = tcp.getsockname()[1]
        outcomes = sandbox.probe(f"""{CONNECT}
targets = ('127.0.0.1', '127.0.0.53', '127.255.255.254', '::1', '::ffff:127.0.0.1', '0.0.0.0')
tell([outcome(connect, address, {port}) for address in targets] + [outcome(send, '127.0.0.1', {port})])
""")  # fmt: skip
        assert set(outcomes[:-1]) <= CLOSED, outcomes
        assert nothing_came(tcp, udp)


def test_another_sandbox_cannot_be_reached(ground: Ground, sandbox: Box) -> None:
    """TCP, UDP and ICMP to a neighbour that listens on everything."""
    with ground.sandbox() as other, other.background("""
tcp = socket.create_server(('0.0.0.0', 8000))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('0.0.0.0', 8000))
for sock in (tcp, udp): sock.setblocking(False)
tell(1)
sys.stdin.readline()
tell([outcome(tcp.accept), outcome(udp.recv, 64)])
""") as listener:  # fmt: skip
        outcomes = sandbox.probe(f"""{CONNECT}
def ping(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as client:
        client.settimeout(0.5)
        client.connect((address, 0))
        client.send(struct.pack('>BBHHH', 8, 0, 0, 0, 1) + b'x')
        client.recv(64)
ways = [(connect, 8000), (send, 8000), (ping,)]
tell([[outcome(way, address, *port) for way, *port in ways] for address in ({other.address!r}, {other.gateway!r})])
""")  # fmt: skip
        for tcp_outcome, _, ping in outcomes:
            assert tcp_outcome in CLOSED, outcomes
            assert ping != "ok", outcomes
        assert listener.ask() == ["EAGAIN", "EAGAIN"]


TARGETS = {
    "metadata": "169.254.169.254",
    "metadata of Alibaba": "100.100.100.200",
    "metadata of Oracle": "192.0.0.192",
    "link local": "169.254.0.1",
    "private 10/8": "10.0.0.1",
    "private 172.16/12": "172.17.0.1",
    "private 192.168/16": "192.168.0.1",
    "broadcast": "255.255.255.255",
    "metadata over IPv6": "fd00:ec2::254",
    "link local IPv6": "fe80::1",
    "public IPv6": "2001:db8::1",
    "IPv4 in IPv6": "::ffff:169.254.169.254",
    "NAT64": "64:ff9b::a9fe:a9fe",
    "6to4": "2002:a9fe:a9fe::1",
}


@pytest.mark.parametrize("address", TARGETS.values(), ids=TARGETS)
def test_no_way_leads_to_what_is_not_the_internet(sandbox: Box, address: str) -> None:
    """Credentials of the machine lie at 169.254.169.254 of every cloud; private ranges are other people's machines.
    Closed also where the internet is open; refused at once, so that programs do not hang."""
    assert sandbox.probe(f"{CONNECT}\ntell(outcome(connect, {address!r}, 80))", "user") in CLOSED


@pytest.mark.parametrize(
    "network", [NetworkConfig(allow_internet_access=False), NetworkConfig(deny_out=("0.0.0.0/0",))], ids=["no", "deny"]
)
def test_no_way_leads_out_where_the_internet_is_closed(ground: Ground, network: NetworkConfig) -> None:
    """TCP is refused at once; datagrams end without a word."""
    with ground.sandbox(network=network) as box:
        assert set(box.probe(f"""{CONNECT}
tell([outcome(connect, '198.51.100.1', port) for port in (22, 80, 443)])
""")) <= CLOSED  # fmt: skip
        assert box.probe(f"""{CONNECT}
def ask(address, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        client.connect((address, port))
        client.send(b'x')
        client.recv(64)
tell([outcome(ask, '198.51.100.1', port) for port in (53, 443)])
""") == ["timed out"] * 2  # fmt: skip


def test_multicast_and_broadcast_reach_nobody(ground: Ground, sandbox: Box) -> None:
    """mDNS, SSDP and DHCP listeners of the host and of other sandboxes."""
    with listeners() as (tcp, udp), ground.sandbox() as other:
        port = udp.getsockname()[1]
        groups = ("224.0.0.1", "224.0.0.251", "239.255.255.250")
        network = IPv4Network(ground.settings.network_cidr)
        for group in groups:
            member = socket.inet_aton(group) + socket.inet_aton(sandbox.gateway)
            udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        targets = (*groups, "255.255.255.255", str(network.broadcast_address), other.address)
        sandbox.probe(f"{CONNECT}\nfor target in {targets!r}: outcome(send, target, {port})\ntell(0)")
        assert nothing_came(tcp, udp)


def test_a_false_source_address_goes_nowhere(ground: Ground, sandbox: Box) -> None:
    """A datagram that seems to come from the neighbour, from the gateway or from loopback: the kernel refuses to send
    it without a raw socket, and the firewall compares source and link."""
    with listeners() as (tcp, udp), ground.sandbox() as other:
        port = udp.getsockname()[1]
        sources = (other.address, sandbox.gateway, "127.0.0.1", "8.8.8.8")
        sandbox.probe(f"""{CONNECT}
for source in {sources!r}: outcome(send, {sandbox.gateway!r}, {port}, source)
tell(0)
""")  # fmt: skip
        assert nothing_came(tcp, udp)


LINK = {
    "add an address": "ip address add 10.244.0.9/20 dev eth0",
    "remove the address": "ip address flush dev eth0",
    "another route": "ip route add 10.0.0.0/8 dev eth0",
    "no route": "ip route del default",
    "a neighbour": "ip neigh replace 10.244.0.1 lladdr 02:00:00:00:00:01 dev eth0",
    "the link down": "ip link set eth0 down",
    "another hardware address": "ip link set eth0 address 02:00:00:00:00:07",
    "ARP on": "ip link set eth0 arp on",
    "promiscuous": "ip link set eth0 promisc on",
    "a larger MTU": "ip link set eth0 mtu 9000",
    "another name": "ip link set eth0 name host0",
    "another namespace": "ip link set eth0 netns 1",
    "a bridge": "ip link add br0 type bridge",
    "a pair": "ip link add v0 type veth peer name v1",
    "a VLAN": "ip link add link eth0 name eth0.7 type vlan id 7",
    "a macvlan": "ip link add link eth0 name m0 type macvlan",
    "a tunnel": "ip link add gre1 type gre remote 10.0.0.1",
    "a tun": "ip tuntap add dev tun0 mode tun",
    "a namespace": "ip netns add mine",
    "a rule": "ip rule add from all lookup 7",
    "traffic control": "tc qdisc replace dev eth0 root pfifo",
}


@pytest.mark.parametrize("command", LINK.values(), ids=LINK)
def test_the_link_is_not_the_sandbox_s_to_change(sandbox: Box, command: str) -> None:
    """The network namespace is owned by the host's user namespace: root inside has no capability over it."""
    before = sandbox.shell("ip -d address; ip route; ip rule; ip neigh")
    assert not sandbox.run(command).ok
    assert sandbox.shell("ip -d address; ip route; ip rule; ip neigh") == before


def test_socket_options_that_need_a_capability(sandbox: Box) -> None:
    """SO_MARK and SO_PRIORITY choose the host's rules, IP_TRANSPARENT takes any address, SO_*BUFFORCE any memory,
    TCP_REPAIR forges connections; device ioctls change links."""
    assert sandbox.probe("""
client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
options = [(1, 36, 1), (1, 12, 7), (0, 19, 1), (1, 33, 1 << 20), (1, 32, 1 << 20), (6, 19, 1)]
requests = [0x8914, 0x8916, 0x8924, 0x8922, 0x8923, 0x890b, 0x8955]
tell([outcome(client.setsockopt, *option) for option in options]
     + [attempt('ioctl', client.fileno(), number, b'eth0'.ljust(40, b'\\0')) for number in requests])
""") == ["EPERM"] * 13  # fmt: skip


def test_names_of_unix_sockets_of_the_host_mean_nothing(sandbox: Box) -> None:
    """Abstract Unix sockets belong to a network namespace: with the host's, containerd's shim could be told to start
    anything (CVE-2020-15257). Sockets with a path need the path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind("\0attack-on-abstract-sockets")
        server.listen()
        names = ["\0attack-on-abstract-sockets", str(sandbox.ground.settings.api_socket), "/run/dbus/system_bus_socket"]
        outcomes = sandbox.probe(f"""
def connect(name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client: client.connect(name)
tell([outcome(connect, name) for name in {names!r}])
""")  # fmt: skip
    assert set(outcomes) <= {"ECONNREFUSED", "ENOENT"}, outcomes


def test_no_unix_socket_is_visible(sandbox: Box) -> None:
    """/proc/net/unix and the file system show our own only."""
    names = {
        line.split()[-1]
        for line in sandbox.shell("tail -n +2 /proc/net/unix").splitlines()
        if "/" in line or "@" in line
    }
    assert names == {"@cube-sudo"}
    assert sandbox.shell("find / -xdev -type s 2>/dev/null || true") == ""


def test_netlink_shows_only_the_own_link(sandbox: Box) -> None:
    """Interfaces, addresses and sockets of the host are not listed; the peer of the link is a number without a name."""
    assert set(sandbox.shell("ls /sys/class/net").split()) == {"lo", "eth0"}
    assert re.findall(r"^\d+: (\w+)", sandbox.shell("ip -o link"), re.M) == ["lo", "eth0"]
    assert sandbox.shell("cat /proc/net/tcp /proc/net/udp | grep -c : || true") == "0"


def test_refused_traffic_takes_no_connection_entries(sandbox: Box) -> None:
    """nf_conntrack_max is one number for the machine: a sandbox that fills the table cuts everybody off."""
    count = Path("/proc/sys/net/netfilter/nf_conntrack_count")
    if not count.exists():
        pytest.skip("no connection tracking in this kernel")
    before = int(count.read_text())
    sandbox.probe(f"""{CONNECT}
for number in range(3000):
    outcome(send, {sandbox.gateway!r}, 1024 + number)
    outcome(send, f'10.99.{{number % 250}}.{{number // 250 + 1}}', 53)
for number in range(500): outcome(connect, {sandbox.gateway!r}, 1024 + number)
tell(0)
""")  # fmt: skip
    assert int(count.read_text()) - before < 500


def test_the_neighbour_table_of_the_machine_is_not_filled(sandbox: Box) -> None:
    """gc_thresh3 counts the entries of all namespaces: a sandbox that asks for many neighbours would leave none to the
    host. The link has no ARP and no network around it."""
    sandbox.probe(
        f"{CONNECT}\nfor number in range(2000): outcome(send, f'10.244.{{number // 250}}.{{number % 250}}', 9)\ntell(0)"
    )
    assert len(sandbox.shell("cat /proc/net/arp").splitlines()) <= 3


def test_the_host_interface_belongs_to_the_seat(sandbox: Box) -> None:
    """For the rows above to be about the right link: its name begins with the instance's, as the rules ask for."""
    names = {name for _, name in socket.if_nameindex() if name.startswith(f"{sandbox.ground.settings.instance}-")}
    assert names
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        addresses = set()
        for name in names:
            try:
                answer = fcntl.ioctl(sock, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR
            except OSError:
                continue
            addresses.add(socket.inet_ntoa(answer[20:24]))
    assert sandbox.gateway in addresses
