"""Packets of a sandbox as they arrive in the internet: odd ones that must not, and whether their sums hold."""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import struct
import subprocess
from pathlib import Path

import pytest

import cube.netagent
from cube.netagent.factory import GATEWAY_MAC
from support.machine import HOSTS, MACHINE, UPLINK, Internet
from support.network import run
from support.sandbox_links import ALL, Net

pytestmark = pytest.mark.root

NEAR, OTHER, FAR, _ = HOSTS


async def test_tiny_fragments_hide_no_port(ground: Net, internet: Internet) -> None:
    """A TCP header cut in two, so that the port's fragment and the flags' differ: it is judged as the whole."""
    link = await ground.link(allow_out=[NEAR], deny_out=[ALL])
    send = f"""
def total(data): return sum(struct.unpack(f'!{{len(data) // 2}}H', data))
def folded(value):
  while value >> 16: value = (value & 0xffff) + (value >> 16)
  return ~value & 0xffff
def syn(target):
  ends = socket.inet_aton(sys.argv[1]) + socket.inet_aton(target)
  bare = struct.pack('!HHIIBBHHH', 4321, 8080, 1, 0, 0x50, 2, 1024, 0, 0)
  whole = bare[:16] + struct.pack('!H', folded(total(ends + struct.pack('!HH', 6, 20) + bare))) + bare[18:]
  raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
  for offset, part, more in ((0, whole[:8], 0x2000), (1, whole[8:], 0)):
    head = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(part), 7, more | offset, 64, 6, 0) + ends
    raw.sendto(head + part, (target, 0))
for target in ({OTHER!r}, {NEAR!r}): syn(target)
"""
    with internet.program(_frames("0x0800", "8080")) as listener:
        await run(send, link.address, namespace=link.namespace)
        assert listener.stdout is not None
        assert listener.stdout.readline().split()[0] == NEAR


async def test_ipv6_that_a_sandbox_gives_itself_leads_nowhere(ground: Net, internet: Internet) -> None:
    """Root of a virtual machine can have it; frames of it do not get past the host's end, to the host or beyond."""
    link = await ground.link()
    inside = ("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0",)
    inside += ("ip -6 address add 2001:db8::2/64 dev eth0 nodad", "ip -6 route add default dev eth0")
    inside += (f"ip -6 neighbour add 2001:db8::9 lladdr {GATEWAY_MAC.hex(':')} dev eth0",)
    for command in inside:
        await asyncio.to_thread(within, link.namespace, command)
    send = f"""
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); six.sendto(b'six', ('2001:db8::9', 8080))
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); four.sendto(b'four', ({FAR!r}, 8080))
"""
    with internet.program(_frames("0x0003", "8080")) as listener:
        await run(send, namespace=link.namespace)
        assert listener.stdout is not None
        assert listener.stdout.readline().split()[0] == FAR


def within(namespace: int, command: str) -> None:
    entered = ["nsenter", f"--net=/proc/self/fd/{namespace}", *command.split()]
    subprocess.run(entered, check=True, pass_fds=[namespace])


def _frames(kind: str, port: str) -> str:
    """Prints of the frames that come to the internet: where the first to a port goes to, and whether its sums hold.
    Of IPv6 it says so."""
    return f"""
import socket, struct
def holds(data):
    data += bytes(len(data) % 2)
    value = sum(struct.unpack(f'!{{len(data) // 2}}H', data))
    while value >> 16: value = (value & 0xffff) + (value >> 16)
    return value == 0xffff
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons({kind}))
s.bind(('machine', {kind})); s.settimeout(10)
print('up', flush=True)
while True:
    frame = s.recv(65536)
    kind = int.from_bytes(frame[12:14], 'big')
    if kind == 0x86dd and frame[20] == 17: print('IPv6', flush=True); break
    if kind != 0x0800 or frame[23] not in (6, 17): continue
    packet = frame[14:14 + int.from_bytes(frame[16:18], 'big')]
    head = (packet[0] & 15) * 4
    body = packet[head:]
    if int.from_bytes(body[2:4], 'big') != {port}: continue
    pseudo = packet[12:20] + struct.pack('!HH', packet[9], len(body))
    print(socket.inet_ntoa(packet[16:20]), socket.inet_ntoa(packet[12:16]), holds(packet[:head]), holds(pseudo + body),
          flush=True)
    break
"""


@pytest.mark.parametrize("protocol", ["STREAM", "DGRAM"])
async def test_n7_sums_hold_after_addresses_were_translated(ground: Net, internet: Internet, protocol: str) -> None:
    """Translation is the kernel's own, no program of ours in it. Where the card leaves sums to it they are right: of
    the header, and of what is inside, whose sum covers the addresses."""
    sums_by_the_kernel(UPLINK)
    link = await ground.link()
    send = f"""
s = socket.socket(socket.AF_INET, socket.SOCK_{protocol}); s.settimeout(wait)
s.connect(({NEAR!r}, 8080)); s.send(b'odd number')
"""
    with internet.program(_frames("0x0800", "8080")) as listener:
        await run(send, namespace=link.namespace)
        assert listener.stdout is not None
        assert listener.stdout.readline().split() == [NEAR, MACHINE, "True", "True"]
    sources = (path.read_text() for path in Path(cube.netagent.__file__).parent.rglob("*.py"))
    assert not any("bpf_" in text for text in sources)


def sums_by_the_kernel(interface: str) -> None:
    """Have the kernel work sums out instead of the card (ETHTOOL_STXCSUM)."""
    wanted = array.array("B", struct.pack("=II", 0x17, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, 0x8946, struct.pack("=16sQ16x", interface.encode(), wanted.buffer_info()[0]))
