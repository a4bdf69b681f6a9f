"""A machine of its own for network tests: a network namespace with a small internet behind its only way out.

Whoever enters it has an own firewall, own routes and own tracked connections, and cannot reach anything but what the
test has made. Threads and processes that are started inside stay inside.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x4000_0000

#: The machine's own address and name of its way out, and the router of the internet.
MACHINE = "203.0.113.1"
UPLINK = "world"
ROUTER = "203.0.113.254"
#: Hosts of the internet that greet whoever comes, over TCP and UDP.
HOSTS = ("203.0.113.10", "203.0.113.11", "198.51.100.10", "198.51.100.11")
#: Private ones, which nobody should reach: networks, the metadata service of clouds, shared address space.
PRIVATE_HOSTS = ("10.99.0.1", "172.16.9.1", "192.168.9.1", "169.254.169.254", "100.100.100.200", "192.0.0.192")
#: Ports that they listen on.
PORTS = (53, 80, 443, 8080)

#: Greets on every address and port: says which address was meant and who has come, then repeats what it is told.
_GREETER = """
import select, socket, sys
hosts, ports = sys.argv[1].split(','), [int(port) for port in sys.argv[2].split(',')]
poll, sockets = select.poll(), {}
def watch(sock, kind, host):
    sockets[sock.fileno()] = sock, kind, host
    poll.register(sock, select.POLLIN)
for host in hosts:
    for port in ports:
        watch(socket.create_server((host, port)), 'listener', host)
        if port in UDP_FREE: continue
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((host, port))
        watch(udp, 'udp', host)
print('up', flush=True)
while True:
    for fd, _ in poll.poll():
        sock, kind, host = sockets[fd]
        try:
            if kind == 'listener':
                client, peer = sock.accept()
                client.sendall(f'{host} {peer[0]}\\n'.encode())
                watch(client, 'client', host)
            elif kind == 'udp':
                data, peer = sock.recvfrom(65536)
                sock.sendto(f'{host} {peer[0]}'.encode(), peer)
            else:
                data = sock.recv(65536)
                if not data: raise OSError
                sock.sendall(data)
        except OSError:
            if kind == 'client':
                poll.unregister(fd); del sockets[fd]; sock.close()
"""


@dataclass(frozen=True)
class Internet:
    """What lies beyond the machine."""

    #: Descriptor of its network namespace.
    namespace: int

    def run(self, *command: str) -> None:
        """Run a program there to its end."""
        subprocess.run(command, check=True, preexec_fn=self.enter)

    def ip(self, command: str) -> None:
        """Change its addresses, links or routes."""
        self.run("ip", *command.split())

    def enter(self) -> None:
        """For a process that is about to begin there."""
        _setns(self.namespace)

    @contextmanager
    def program(self, code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Python code that runs there during the block, which begins when it has printed a line."""
        command = [sys.executable, "-c", code, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=self.enter) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline()
                yield process
            finally:
                process.kill()


@contextmanager
def machine() -> Iterator[Internet]:
    """Be on a machine of its own for the block; everything that the thread starts is on it too."""
    with ExitStack() as stack:
        home = _own()
        stack.callback(os.close, home)
        _unshare()
        stack.callback(_setns, home)
        here = _own()
        stack.callback(os.close, here)
        _unshare()
        internet = Internet(_own())
        stack.callback(os.close, internet.namespace)
        _setns(here)
        _ip("link set lo up")
        _ip(f"link add {UPLINK} type veth peer name machine netns /proc/self/fd/{internet.namespace}", internet)
        _ip(f"address add {MACHINE}/24 dev {UPLINK}")
        _ip(f"link set {UPLINK} up")
        internet.ip("link set lo up")
        internet.ip("link set machine up")
        internet.ip(f"address add {ROUTER}/24 dev machine")
        _ip(f"route add default via {ROUTER}")
        yield internet


@contextmanager
def greeters(internet: Internet, *, without_udp: Sequence[int] = ()) -> Iterator[None]:
    """Hosts that greet during the block, see :data:`HOSTS` and :data:`PRIVATE_HOSTS`."""
    hosts = (*HOSTS, *PRIVATE_HOSTS)
    for host in hosts:
        internet.ip(f"address replace {host}/32 dev machine")
    code = f"UDP_FREE = {tuple(without_udp)!r}\n{_GREETER}"
    with internet.program(code, ",".join(hosts), ",".join(map(str, PORTS))):
        yield


def _ip(command: str, internet: Internet | None = None) -> None:
    passed = () if internet is None else (internet.namespace,)
    subprocess.run(["ip", *command.split()], check=True, pass_fds=passed)


def _own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _unshare() -> None:
    if _libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _setns(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
