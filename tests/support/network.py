"""Running code inside of a link's namespace, and asking the host what there is."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
from pathlib import Path

from cube.netagent import nftables
from cube.netagent.rtnetlink import RouteSocket
from support.descriptors import open_fds

_libc = ctypes.CDLL(None, use_errno=True)

#: What the programs below need, loaded before they give up the rights to read it.
_PREAMBLE = "import encodings.idna, errno, hashlib, os, socket, struct, sys, time\n"
#: Connects to argv[1]:argv[2] and prints what comes, or the name of the error.
CONNECT = """
try:
  with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=wait) as s: print(s.recv(100).decode())
except TimeoutError: print('TIMEOUT')
except OSError as e: print(errno.errorcode[e.errno])
"""
#: Sends a datagram to argv[1]:argv[2] and prints the error that comes back.
DATAGRAM = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(wait)
s.connect((sys.argv[1], int(sys.argv[2])))
try: s.send(b'x'); print(s.recv(100).decode())
except TimeoutError: print('TIMEOUT')
except OSError as e: print(errno.errorcode[e.errno])
"""
#: Pings argv[1], without privileges, and prints the address that answers.
PING = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
s.settimeout(wait)
s.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]) + b'ping', (sys.argv[1], 0))
try: print(s.recvfrom(100)[1][0])
except TimeoutError: print('TIMEOUT')
"""
#: Listens on all addresses, prints the port, and greets all who come.
GREET = """
with socket.create_server(('', 0)) as server:
  print(server.getsockname()[1], flush=True)
  while True:
    with server.accept()[0] as s: s.sendall(b'hello')
"""


def start(
    code: str, *arguments: object, namespace: int | None = None, uid: int = 0, wait: float = 5.0
) -> subprocess.Popen[str]:
    """Start Python code in a namespace (of the caller when ``None``) as a user; ``wait`` is its patience in seconds."""

    def enter() -> None:
        if namespace is not None and _libc.setns(namespace, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    become = f"wait = {wait}\nos.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
    command = [sys.executable, "-S", "-c", f"{_PREAMBLE}{become}{code}", *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=enter)


async def run(code: str, *arguments: object, namespace: int | None = None, uid: int = 0, wait: float = 5.0) -> str:
    """Run Python code to its end and return what it prints."""
    child = start(code, *arguments, namespace=namespace, uid=uid, wait=wait)
    output, _ = await asyncio.to_thread(child.communicate, timeout=20)
    assert child.returncode == 0
    return output.strip()


def traces(instance: str) -> dict[str, object]:
    """Everything that the network of an instance could leave behind on this machine or in this process."""
    with RouteSocket() as netlink:
        links = sorted(link.name for link in netlink.links(instance))
    return {
        "links": links,
        "tables": sorted(line for line in nftables.run("list tables").splitlines() if instance in line),
        "mounts": Path("/proc/self/mountinfo").read_text().count(instance),
        "descriptors": len(open_fds()),
        "threads": len(os.listdir("/proc/self/task")),
    }


def bad_sums() -> int:
    """TCP segments that this machine has thrown away for their sum."""
    lines = Path("/proc/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("InCsumErrors")])
