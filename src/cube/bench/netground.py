"""Network namespaces for measurements: a machine with one way out, a host beyond it, and bytes between two of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from cube.bench.load import RoundFailed
from cube.netagent import namespaces

#: The host beyond the machine, and the port at which it takes bytes.
FAR: Final = "203.0.113.10"
_MACHINE: Final = "203.0.113.1"
_PLAIN: Final = "198.51.100.2"
_PLAIN_GATEWAY: Final = "198.51.100.1"
_PORT: Final = 5001
#: Takes what comes and says how many bytes there were in each second.
_SINK: Final = """
import socket, sys, time
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print('up', flush=True)
    while True:
        with server.accept()[0] as client:
            buffer, total, begun = bytearray(1 << 20), 0, time.perf_counter()
            while size := client.recv_into(buffer): total += size
            print(total / (time.perf_counter() - begun), flush=True)
"""
_SOURCE: Final = """
import socket, sys, time
data, end = bytes(1 << 20), time.perf_counter() + float(sys.argv[3])
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as s:
    while time.perf_counter() < end: s.sendall(data)
"""


@dataclass(frozen=True, slots=True)
class Ground:
    """The namespaces of a measurement; the calling thread is in the machine's."""

    #: Descriptor of the namespace of the host beyond.
    far: int


@contextmanager
def machine() -> Iterator[Ground]:
    """Be on a machine of its own for the block: nothing of the real one is seen, and nothing is left."""
    with ExitStack() as stack:
        home = namespaces.own_namespace()
        stack.callback(os.close, home)
        stack.callback(os.close, stack.enter_context(namespaces.new_namespace(home)))
        here = namespaces.own_namespace()
        stack.callback(os.close, here)
        far = _new()
        stack.callback(os.close, far)
        _ip("link set lo up")
        _wire("world", f"{_MACHINE}/24", far, f"{FAR}/24")
        _ip(f"route add default via {FAR}")
        yield Ground(far)


@contextmanager
def plain_sandbox() -> Iterator[tuple[int, int]]:
    """Another machine, that forwards and does nothing else: the namespaces of a sandbox on it and of its host beyond.

    The calling thread stays where it is.
    """
    with ExitStack() as stack:
        with machine() as ground:
            held = [_new(), os.dup(ground.far), namespaces.own_namespace()]
            for fd in held:
                stack.callback(os.close, fd)
            namespaces.write_sysctl("net/ipv4/ip_forward", "1")
            _wire("plain", f"{_PLAIN_GATEWAY}/24", held[0], f"{_PLAIN}/24")
            _ip(f"route add default via {_PLAIN_GATEWAY}", held[0])
            _ip(f"route add default via {_MACHINE}", held[1])
        yield held[0], held[1]


def _new() -> int:
    """A new namespace; the caller closes it."""
    here = namespaces.own_namespace()
    try:
        with namespaces.new_namespace(here) as fresh:
            return fresh
    finally:
        os.close(here)


def _wire(name: str, address: str, namespace: int, other: str) -> None:
    _ip(f"link add {name} type veth peer name eth0 netns /proc/self/fd/{namespace}", passed=namespace)
    _ip(f"address add {address} dev {name}")
    _ip(f"link set {name} up")
    for command in ("link set lo up", f"address add {other} dev eth0", "link set eth0 up"):
        _ip(command, namespace)


def _ip(command: str, namespace: int | None = None, *, passed: int | None = None) -> None:
    entered = [] if namespace is None else ["nsenter", f"--net=/proc/self/fd/{namespace}"]
    fds = [fd for fd in (namespace, passed) if fd is not None]
    subprocess.run([*entered, "ip", *command.split()], check=True, pass_fds=fds, capture_output=True)


def _start(code: str, namespace: int, *arguments: object) -> subprocess.Popen[str]:
    command = ["nsenter", f"--net=/proc/self/fd/{namespace}", sys.executable, "-S", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, pass_fds=[namespace], stdout=subprocess.PIPE, text=True)


@contextmanager
def sink(far: int) -> Iterator[subprocess.Popen[str]]:
    """Something at the host beyond that takes bytes, for :func:`throughput`."""
    with _start(_SINK, far, FAR, _PORT) as process:
        try:
            assert process.stdout is not None  # noqa: S101  asked for above
            process.stdout.readline()
            yield process
        finally:
            process.kill()


async def throughput(sandbox: int, taker: subprocess.Popen[str], seconds: float) -> float:
    """Bytes per second over one TCP connection. Raises ``RoundFailed``."""
    return await asyncio.to_thread(_throughput, sandbox, taker, seconds)


def _throughput(sandbox: int, taker: subprocess.Popen[str], seconds: float) -> float:
    with _start(_SOURCE, sandbox, FAR, _PORT, seconds) as source:
        if source.wait() != 0 or taker.stdout is None:
            raise RoundFailed("the connection of the measurement was refused")
    return float(taker.stdout.readline())
