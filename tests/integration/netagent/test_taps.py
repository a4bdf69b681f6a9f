"""TAP links, with a network stack behind each of them as a virtual machine has one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cube.cubelet.cgroups.events import poll_until
from cube.model.errors import HostError, LimitExceeded
from cube.netagent import ethtool
from cube.netagent.firewall import Firewall
from cube.netagent.links import LinkPool, TapLink, TapPool
from cube.netagent.rtnetlink import RouteSocket
from cube.settings import Settings
from support import network
from support.machine import Internet
from support.network import CONNECT, DATAGRAM, GREET, PING, bad_sums, run
from support.tap_guest import guest

pytestmark = pytest.mark.root

#: Sends 100 MB to whoever comes, and to the last one its digest.
SEND = """
data = os.urandom(1 << 20)
with socket.create_server(('', 0)) as server:
  print(server.getsockname()[1], flush=True)
  with server.accept()[0] as s:
    for _ in range(100): s.sendall(data)
  print(hashlib.sha256(data * 100).hexdigest(), flush=True)
"""
RECEIVE = """
digest = hashlib.sha256()
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=wait) as s:
  while part := s.recv(1 << 20): digest.update(part)
print(digest.hexdigest())
"""


@pytest.fixture
async def taps(settings: Settings) -> AsyncIterator[TapPool]:
    pool = TapPool(settings)
    try:
        await pool.start()
        yield pool
    finally:
        await pool.close(remove=True)


def interfaces(settings: Settings) -> list[str]:
    with RouteSocket() as netlink:
        return sorted(link.name for link in netlink.links(f"{settings.instance}-"))


async def test_e13_offloads_are_on(taps: TapPool) -> None:
    """As ``ethtool -k`` shows it: sums and segmentation are left to the guest, redirected packets are not cut ahead."""
    link = await taps.acquire()
    shown = ethtool.features(link.interface)
    wanted = ("tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-tcp-mangleid-segmentation")
    assert {name: shown[name] for name in wanted} == dict.fromkeys(wanted, True)


async def test_n8_offload_flags_reach_the_device(taps: TapPool) -> None:
    """What TUNSETOFFLOAD was told, and packets are put together on receipt."""
    link = await taps.acquire()
    flags = tun_flags(link)
    assert flags & 0x4002 == 0x4002  # IFF_TAP and IFF_VNET_HDR
    shown = ethtool.features(link.interface)
    assert shown["rx-gro"]
    assert shown["tx-scatter-gather"]


async def test_n8_the_machine_s_own_interfaces_are_left_as_they_are(settings: Settings, internet: Internet) -> None:
    """What is switched on is switched on for the links alone."""
    with RouteSocket() as netlink:
        others = [link.name for link in netlink.links("")]
    before = {name: ethtool.features(name) for name in others}
    pool = TapPool(settings)
    try:
        await pool.start()
        await pool.acquire()
        after = {name: ethtool.features(name) for name in others}
    finally:
        await pool.close(remove=True)
    assert len(others) > 1
    assert all("rx-gro" in shown for shown in before.values())
    assert after == before


async def test_e13_large_transfer_has_no_checksum_errors(taps: TapPool, firewall: Firewall, settings: Settings) -> None:
    """100 MB through a TAP, cut into packets as late as possible, arrive whole and without one packet thrown away."""
    link = await taps.acquire()
    with guest(link) as (_, namespace):
        server = network.start(SEND, namespace=namespace)
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        before = bad_sums()
        received = await run(RECEIVE, link.address, port, uid=settings.proxy_uid, wait=20)
        assert received == server.communicate(timeout=20)[0].strip()
        assert bad_sums() == before


def tun_flags(link: TapLink) -> int:
    return int(Path(f"/sys/class/net/{link.interface}/tun_flags").read_text(), 16)


async def test_same_rules_as_a_container(taps: TapPool, firewall: Firewall, settings: Settings) -> None:
    """The gateway answers pings; the host's services are closed; the proxy alone may connect."""
    link = await taps.acquire()
    with guest(link) as (_, namespace), network.start(GREET) as host:
        assert host.stdout is not None
        port = host.stdout.readline().strip()
        assert await run(PING, link.gateway, namespace=namespace) == str(link.gateway)
        assert await run(CONNECT, link.gateway, port, namespace=namespace) == "ECONNREFUSED"
        assert await run(DATAGRAM, link.gateway, port, namespace=namespace) == "EHOSTUNREACH"
        host.kill()
        server = network.start(GREET, namespace=namespace)
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        assert await run(CONNECT, link.address, port, uid=settings.proxy_uid) == "hello"
        assert await run(CONNECT, link.address, port) == "ECONNREFUSED"
        server.kill()
        server.communicate()


def ip(pid: int, command: str) -> None:
    subprocess.run(["nsenter", "-n", "-t", str(pid), "ip", *command.split()], check=True)


async def test_a_machine_with_another_address_gets_nowhere(taps: TapPool, firewall: Firewall) -> None:
    """Root of a guest may give its card any address; packets from it are dropped."""
    link, other = await taps.acquire(), await taps.acquire()
    with guest(link) as (pid, namespace):
        ip(pid, "addr flush dev eth0")
        ip(pid, f"addr add {other.address}/31 dev eth0")
        ip(pid, f"route add {link.gateway} dev eth0")
        assert await run(PING, link.gateway, namespace=namespace, wait=0.3) == "TIMEOUT"


async def test_used_link_is_not_used_again(taps: TapPool, firewall: Firewall, settings: Settings) -> None:
    link = await taps.acquire()
    with guest(link) as (_, namespace):
        await run(PING, link.gateway, namespace=namespace)
    taps.release(link)
    assert await poll_until(lambda: link.interface not in interfaces(settings), 10)


async def test_unused_link_is_used_again(taps: TapPool) -> None:
    link = await taps.acquire()
    assert await poll_until(lambda: taps.ready >= 2, 10)
    taps.release(link)
    assert link in [await taps.acquire() for _ in range(3)]


async def test_running_machine_survives_a_restart(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    first, second = TapPool(settings), TapPool(settings)
    try:
        await first.start()
        link = await first.acquire()
        with guest(link) as (pid, namespace):
            await first.close(remove=False)
            assert await poll_until(lambda: interfaces(settings) == [link.interface], 10)
            await second.start()
            assert await second.leftovers() == {link.index}
            with pytest.raises(HostError, match="does not have the link"):
                await second.adopt(link.index, os.getpid())
            adopted = await second.adopt(link.index, pid)
            assert (adopted.address, adopted.interface, adopted.descriptor) == (link.address, link.interface, None)
            assert await run(PING, link.gateway, namespace=namespace) == str(link.gateway)
    finally:
        await second.close(remove=True)
    assert interfaces(settings) == []


async def test_both_kinds_share_the_addresses(settings: Settings) -> None:
    """A node with containers and microVMs: no index is given out twice, and neither pool takes the other's links."""
    veths, taps = LinkPool(settings), TapPool(settings)
    try:
        await veths.start()
        await taps.start()
        links: list[TapLink] = [await taps.acquire() for _ in range(2)]
        others = [await veths.acquire() for _ in range(2)]
        assert len({link.index for link in (*links, *others)}) == 4
        assert await veths.leftovers() == set()
        await taps.close(remove=True)
        assert {link.interface for link in others} <= set(interfaces(settings))
    finally:
        await taps.close(remove=True)
        await veths.close(remove=True)


async def test_a_link_whose_interface_is_gone_is_made_again_with_its_address(taps: TapPool, settings: Settings) -> None:
    link = await taps.acquire()
    link.close()  # as when the machine was ended that alone had it
    again = await taps.renew(link.index)
    assert (again.interface, again.address) == (link.interface, link.address)
    assert again.interface in interfaces(settings)
    taps.release(again)


async def test_a_reserved_address_is_nobody_elses(settings: Settings) -> None:
    small = settings.model_copy(update={"network_cidr": settings.network_cidr.partition("/")[0] + "/28"})
    pool = TapPool(small)
    pool.reserve(3)
    try:
        await pool.start()
        found = [await pool.acquire() for _ in range(7)]
        assert {link.index for link in found} == set(range(8)) - {3}
        with pytest.raises(LimitExceeded):
            await pool.acquire()
        assert (await pool.renew(3)).index == 3
        with pytest.raises(HostError, match="is in use"):
            pool.reserve(3)
        with pytest.raises(HostError, match="again"):
            await pool.renew(3)
    finally:
        await pool.close(remove=True)


async def test_a_reservation_can_be_given_up(settings: Settings) -> None:
    pool = TapPool(settings)
    try:
        pool.reserve(7)
        pool.free(7)
        pool.reserve(7)
        with pytest.raises(HostError, match="not reserved"):
            await pool.renew(8)
        with pytest.raises(HostError, match="outside"):
            pool.reserve(1 << 20)
    finally:
        await pool.close(remove=True)
