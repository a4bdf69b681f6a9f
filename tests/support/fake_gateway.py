"""Stands where the gateway for HTTP and HTTPS listens: says that it was met, and which address was meant."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_GATEWAY = """
import socket, sys
with socket.socket() as server:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
    server.bind(('127.0.0.1', int(sys.argv[1])))
    server.listen()
    print('up', flush=True)
    while True:
        with server.accept()[0] as client:
            client.sendall('gateway {}:{} from {}\\n'.format(*client.getsockname(), client.getpeername()[0]).encode())
            client.recv(1)
"""


@contextmanager
def fake_gateway(port: int) -> Iterator[None]:
    """Listens during the block, in the namespace of the caller."""
    with subprocess.Popen([sys.executable, "-c", _GATEWAY, str(port)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield
        finally:
            process.kill()
