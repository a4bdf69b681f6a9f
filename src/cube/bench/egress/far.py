"""The world of the egress benchmark, for a process in its namespace: names, large bodies over TLS, and a server that
answers at once, which is an Envoy.

    python -m cube.bench.egress.far DIRECTORY
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

from cube.bench.egress.ground import BULK_HOST, HOST, NAMES
from cube.egress.ca import open_authority
from cube.proxy.envoy import find_binary
from cube.proxy.vocabulary import Json, extension

#: Every name of the world ends so; this one has the large bodies.
DOMAIN, BULK = "bench.test", "bulk.bench.test"
#: Printed when everything is there.
READY = "ready"
_PART = bytes(256 * 1024)
_TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def main(directory: Path) -> None:
    """Serve until killed."""
    authority = open_authority(directory / "world-ca")
    certificate = directory / "world.pem"
    certificate.touch(0o600)
    certificate.write_bytes(authority.mint(f"*.{DOMAIN}") + authority.leaf_key_pem)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind((NAMES, 53))
    threading.Thread(target=_answer_names, args=[names], daemon=True).start()
    bulk = socket.create_server((BULK_HOST, 443), backlog=64)
    threading.Thread(target=_serve_bulk, args=[bulk, certificate], daemon=True).start()
    bootstrap = directory / "far.json"
    bootstrap.write_text(json.dumps(_bootstrap(certificate)), encoding="utf-8")
    command = [str(find_binary()), "-c", str(bootstrap), "--concurrency", "1", "--log-level", "error"]
    envoy = subprocess.Popen([*command, "--disable-hot-restart"])
    _until_it_listens()
    print(READY, flush=True)  # noqa: T201  for the parent
    # The parent's end closes our input.
    sys.stdin.read()
    envoy.kill()


def _until_it_listens() -> None:
    for _ in range(1000):
        with contextlib.suppress(OSError), socket.create_connection((HOST, 443), timeout=1):
            return
        threading.Event().wait(0.02)


def _answer_names(names: socket.socket) -> None:
    while True:
        data, sender = names.recvfrom(4096)
        with contextlib.suppress(dns.exception.DNSException, OSError):
            names.sendto(_reply(dns.message.from_wire(data)), sender)


def _reply(query: dns.message.Message) -> bytes:
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.RA
    question = query.question[0]
    if question.rdtype == dns.rdatatype.A:
        address = BULK_HOST if question.name.to_text(omit_final_dot=True) == BULK else HOST
        reply.answer.append(dns.rrset.from_text(question.name, 3600, "IN", "A", address))
    return reply.to_wire()


def _serve_bulk(listener: socket.socket, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["http/1.1"])
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_send_bulk, args=[connection, context], daemon=True).start()


def _send_bulk(connection: socket.socket, context: ssl.SSLContext) -> None:
    """The path of a request says how many bytes are wanted."""
    with contextlib.suppress(OSError, ValueError), context.wrap_socket(connection, server_side=True) as secured:
        while head := secured.recv(65536):
            size = int(head.split(b" ", 2)[1].strip(b"/"))
            secured.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            for _ in range(size // len(_PART)):
                secured.sendall(_PART)
            secured.sendall(_PART[: size % len(_PART)])


def _bootstrap(certificate: Path) -> Json:
    file = {"filename": str(certificate)}
    tls = extension(
        "envoy.transport_sockets.tls",
        _TLS,
        common_tls_context={
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [{"certificate_chain": file, "private_key": file}],
        },
    )
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        _HCM,
        stat_prefix="far",
        route_config={"virtual_hosts": [{"name": "far", "domains": ["*"], "routes": [_ROUTE]}]},
        http_filters=[extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")],
    )
    listener = {
        "name": "far",
        "address": {"socket_address": {"address": HOST, "port_value": 443}},
        "filter_chains": [{"transport_socket": tls, "filters": [manager]}],
    }
    return {"static_resources": {"listeners": [listener]}}


_ROUTE = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "hello\n"}}}


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]))
