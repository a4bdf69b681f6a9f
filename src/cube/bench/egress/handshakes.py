"""Times of TLS connections from inside a namespace: made to new names, then to the same ones again.

python -m cube.bench.egress.handshakes CA COUNT PREFIX
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time

from cube.bench.egress.far import DOMAIN
from cube.bench.egress.ground import HOST


def main(trust: str, count: int, prefix: str) -> None:
    """Print the durations in seconds, ``{"new": […], "known": […]}``."""
    context = ssl.create_default_context(cafile=trust)
    names = [f"{prefix}{number}.{DOMAIN}" for number in range(count)]
    # What is done once, whoever is asked, is no part of it.
    _connect(context, f"{prefix}-first.{DOMAIN}")
    found = {mark: [_connect(context, name) for name in names] for mark in ("new", "known")}
    print(json.dumps(found))  # noqa: T201  for the parent


def _connect(context: ssl.SSLContext, name: str) -> float:
    begun = time.perf_counter()
    with (
        socket.create_connection((HOST, 443), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name),
    ):
        return time.perf_counter() - begun


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
