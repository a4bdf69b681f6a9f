"""The node with its outbound proxy, the sandboxes on it, and the internet behind it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cube.egress.ca import Authority, open_authority
from cube.egress.envoy.clusters import World
from cube.egress.gateway import CubeEgress
from cube.model.egress_wire import parse_rules
from cube.proxy import admin
from cube.settings import Settings
from support.egress.client import Client
from support.egress.namespaces import Namespace, connect
from support.egress.sites import Internet

NODE, FAR = "192.0.2.1", "192.0.2.2"
#: Where the names of the test's internet live; all of these addresses are served.
NAMES = {
    "api.a.test": "203.0.113.10",
    "www.a.test": "203.0.113.11",
    "a.test": "203.0.113.12",
    "old.a.test": "203.0.113.13",
    "sub.b.test": "203.0.113.20",
    "x.y.z.b.test": "203.0.113.21",
    "b.test": "203.0.113.22",
    "evilb.test": "203.0.113.23",
    "sub.b.test.evil.test": "203.0.113.24",
    "evil.test": "198.51.100.66",
    "other.test": "203.0.113.30",
    "impostor.a.test": "203.0.113.31",
    "inside.a.test": "10.99.0.7",
    "loop.a.test": "127.0.0.1",
    "meta.a.test": "169.254.169.254",
}
DNS = "203.0.113.53"
_ROUTES = ("203.0.113.0/24", "198.51.100.0/24", "10.99.0.0/24", "169.254.169.254/32")
_DIVERT = """
table inet divert {{
  chain prerouting {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "box*" meta l4proto tcp socket transparent 1 meta mark set 1 accept
    iifname "box*" tcp dport {{ 80, 443, 8443 }} tproxy ip to 127.0.0.1:{port} meta mark set 1 accept
  }}
  chain forward {{ type filter hook forward priority filter; policy drop; }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "box*" meta mark != 1 drop
  }}
}}
"""


@dataclass
class Box:
    """A sandbox: a namespace with an address."""

    namespace: Namespace
    address: str
    world: EgressWorld

    async def allow(self, *rules: dict[str, Any]) -> None:
        """Give it rules, in their wire form."""
        await self.world.egress.put(self.address, f"sandbox-of-{self.address}", parse_rules(list(rules)))

    def client(self, **options: Any) -> Client:
        """A client inside, which trusts the egress CA alone."""
        return Client(self.namespace, self.world.authority, self.world.names, **options)

    async def get(self, url: str, **options: Any) -> Any:
        """One request on a connection of its own."""
        return await self.client().request("GET", url, **options)


@dataclass
class EgressWorld:
    """What a test works with."""

    directory: Path
    node: Namespace
    far: Namespace
    internet: Internet
    authority: Authority
    egress: CubeEgress
    settings: Settings
    names: dict[str, str] = field(default_factory=lambda: dict(NAMES))
    boxes: list[Box] = field(default_factory=list)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def ask_envoy(self, path: str) -> tuple[int, bytes]:
        """A question to Envoy's admin interface."""
        return await admin.ask(self.settings.run_dir / "egress" / "admin" / "admin.sock", path)

    def box(self) -> Box:
        """Another sandbox, without rules."""
        number = len(self.boxes)
        inside = Namespace()
        self.stack.callback(inside.close)
        connect(self.node, inside, (f"box{number}", "eth0"))
        gateway, address = (
            f"10.213.{number // 64}.{number % 64 * 4 + 1}",
            f"10.213.{number // 64}.{number % 64 * 4 + 2}",
        )
        self.node.ip(f"addr add {gateway}/30 dev box{number}")
        inside.ip(f"addr add {address}/30 dev eth0", f"route add default via {gateway}")
        self.boxes.append(Box(inside, address, self))
        return self.boxes[-1]


@asynccontextmanager
async def egress_world(
    *, tls: Sequence[int] = (443, 8443), plain: Sequence[int] = (80,), **options: Any
) -> AsyncIterator[EgressWorld]:
    """A world whose node is the calling thread's namespace until it ends."""
    async with AsyncExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="egress-world-"))
        stack.callback(shutil.rmtree, directory)
        os.chmod(directory, 0o755)
        node, far = Namespace(), Namespace()
        stack.callback(node.close)
        stack.callback(far.close)
        _wire(node, far)
        stack.enter_context(node.entered())
        internet = Internet(open_authority(directory / "world-ca"))
        await stack.enter_async_context(internet.serving(_listener(far), tls=tls, plain=plain))
        names = dict(NAMES)
        await stack.enter_async_context(name_server(far.call, names))
        settings = Settings(instance="eg", run_dir=directory / "run", state_dir=directory / "state", egress_port=15001)
        authority = open_authority(directory / "ca")
        world = World(trust=directory / "world-ca" / "cube-root-ca.crt", resolvers=(DNS,))
        egress = CubeEgress(settings, authority, world, **options)
        made = EgressWorld(directory, node, far, internet, authority, egress, settings, names)
        await stack.enter_async_context(made.stack)
        await egress.start()
        stack.push_async_callback(egress.close)
        yield made


def _wire(node: Namespace, far: Namespace) -> None:
    connect(node, far, ("world", "node"))
    node.ip(f"addr add {NODE}/30 dev world", *(f"route add {route} via {FAR}" for route in _ROUTES))
    far.ip(f"addr add {FAR}/30 dev node", *(f"route add local {route} dev lo" for route in _ROUTES))
    node.ip("rule add fwmark 1 lookup 100", "route add local default dev lo table 100")
    node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    node.run("nft", "-f", "-", input=_DIVERT.format(port=15001))


def _listener(far: Namespace) -> Callable[[int], socket.socket]:
    def listen(port: int) -> socket.socket:
        return far.call(lambda: socket.create_server(("", port), backlog=512))

    return listen


@asynccontextmanager
async def name_server(
    call: Callable[[Callable[[], socket.socket]], socket.socket], names: dict[str, str]
) -> AsyncIterator[None]:
    def bind() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((DNS, 53))
        return made

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _NameServer(names), sock=call(bind)
    )
    try:
        yield
    finally:
        transport.close()


class _NameServer(asyncio.DatagramProtocol):
    """Answers A questions from a table."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, sender: Any) -> None:
        name, end = _question(data)
        kind = struct.unpack_from("!H", data, end)[0]
        address = self._names.get(name.lower())
        question = data[12 : end + 4]
        if address is None:
            self._transport.sendto(data[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + question, sender)
        elif kind != 1:
            self._transport.sendto(data[:2] + b"\x81\x80\0\1\0\0\0\0\0\0" + question, sender)
        else:
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)
            self._transport.sendto(data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question + answer, sender)


def _question(data: bytes) -> tuple[str, int]:
    labels, at = [], 12
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels), at + 1
