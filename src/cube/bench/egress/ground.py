"""The network of the egress benchmark: namespaces, the cables between them, and what is diverted where.

``box``    behind the outbound proxy: TCP 80 and 443 are diverted to it
``plain``  reaches the world directly, over as many hops
``mitm``   behind mitmproxy
``node``   where the proxies run
``far``    the world
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cube.bench.load import RoundFailed

#: Servers of the world: one that answers at once, one with large bodies, and the one for names.
HOST, BULK_HOST, NAMES = "203.0.113.10", "203.0.113.11", "203.0.113.53"
#: Ports on the node.
PROXY_PORT, MITM_PORT = 15001, 15002
#: Addresses of the client's namespaces.
ADDRESSES = {"box": "10.213.0.2", "plain": "10.213.0.6", "mitm": "10.213.0.10"}
_NODE, _FAR = "192.0.2.1", "192.0.2.2"
_PLACES = ("node", "far", *ADDRESSES)
_DIVERT = f"""
table inet bench {{
  chain mangle {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "box" meta l4proto tcp socket transparent 1 meta mark set 1 accept
    iifname "box" tcp dport {{ 80, 443 }} tproxy ip to 127.0.0.1:{PROXY_PORT} meta mark set 1 accept
  }}
  chain nat {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "mitm" tcp dport 443 redirect to :{MITM_PORT}
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname "plain" accept
    oifname "plain" accept
  }}
}}
"""


class Ground:
    """Runs programs in the namespaces."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def inside(self, place: str, *command: str) -> list[str]:
        """The command that runs another one in a namespace."""
        return ["nsenter", f"--net=/run/netns/{self.name(place)}", "--", *command]

    def name(self, place: str) -> str:
        """The name under which ``ip netns`` knows a namespace."""
        return f"{self._prefix}-{place}"

    def run(self, place: str, *command: str, text: str = "") -> None:
        """Run a program to its end. Raises ``RoundFailed`` with what it says."""
        _run(*self.inside(place, *command), text=text)


@contextmanager
def ground() -> Iterator[Ground]:
    """The network during the block. Raises ``RoundFailed`` when the machine refuses it."""
    made = Ground(f"cube-bench-{os.getpid()}")
    with ExitStack() as stack:
        for place in _PLACES:
            _run("ip", "netns", "add", made.name(place))
            stack.callback(_run, "ip", "netns", "delete", made.name(place))
            made.run(place, "ip", "link", "set", "lo", "up")
        _wire(made)
        yield made


def _wire(made: Ground) -> None:
    for place, address in ADDRESSES.items():
        gateway = _gateway(address)
        _cable(made, place, place, "eth0")
        _ip(made, "node", f"addr add {gateway}/30 dev {place}")
        _ip(made, place, f"addr add {address}/30 dev eth0", f"route add default via {gateway}")
    _cable(made, "far", "world", "node")
    _ip(made, "node", f"addr add {_NODE}/30 dev world", f"route add 203.0.113.0/24 via {_FAR}")
    _ip(made, "node", "rule add fwmark 1 lookup 100", "route add local default dev lo table 100")
    _ip(made, "far", f"addr add {_FAR}/30 dev node", f"route add default via {_NODE}")
    _ip(made, "far", *(f"addr add {address}/32 dev lo" for address in (HOST, BULK_HOST, NAMES)))
    made.run("node", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    made.run("node", "nft", "-f", "-", text=_DIVERT)


def _gateway(address: str) -> str:
    head, _, last = address.rpartition(".")
    return f"{head}.{int(last) - 1}"


def _cable(made: Ground, place: str, here: str, there: str) -> None:
    _ip(made, "node", f"link add {here} type veth peer name {there} netns {made.name(place)}", f"link set {here} up")
    _ip(made, place, f"link set {there} up")


def _ip(made: Ground, place: str, *commands: str) -> None:
    made.run(place, "ip", "-batch", "-", text="\n".join(commands) + "\n")


def _run(*command: str, text: str = "") -> None:
    try:
        subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=60)
    except subprocess.CalledProcessError as error:
        raise RoundFailed(f"{' '.join(command)}: {error.stderr.strip()[:300]}") from error
