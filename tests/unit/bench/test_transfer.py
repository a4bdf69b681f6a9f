from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cube.bench import transfer
from cube.bench.load import RoundFailed

BLOCK = bytes(range(256)) * 16


@contextmanager
def server(answer: bytes, received: bytearray, until: bytes = b"") -> Iterator[tuple[str, int]]:
    """Takes one connection, reads up to ``until``, answers and closes."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while not received.endswith(until) and (piece := connection.recv(65536)):
                received.extend(piece)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join()


def test_an_upload_is_announced_with_its_exact_length() -> None:
    received = bytearray()
    with server(b"HTTP/1.1 200 OK\r\n\r\n", received, BLOCK * 3) as address:
        assert transfer.upload(address, "/files?path=x", {"x-access-token": "t"}, BLOCK, 3) > 0
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in head
    assert body == BLOCK * 3


def test_a_form_is_announced_with_its_exact_length() -> None:
    received = bytearray()
    with server(b"HTTP/1.1 200 OK\r\n\r\n", received, b"--\r\n") as address:
        transfer.upload_form(address, "/files?path=x", {}, BLOCK, 2)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in head
    assert BLOCK * 2 in body


def test_an_upload_that_is_refused_has_failed() -> None:
    with (
        server(b"HTTP/1.1 507 Insufficient Storage\r\n\r\nfull", bytearray(), BLOCK) as address,
        pytest.raises(RoundFailed, match="507"),
    ):
        transfer.upload(address, "/files", {}, BLOCK, 1)


def test_a_download_is_compared_with_what_it_should_be() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    with server(head + BLOCK * 5, bytearray(), b"\r\n\r\n") as address:
        assert transfer.download(address, "/files", {}, BLOCK, 5) > 0
    with (
        server(head + BLOCK + bytes(len(BLOCK)), bytearray(), b"\r\n\r\n") as address,
        pytest.raises(RoundFailed, match="not what was uploaded"),
    ):
        transfer.download(address, "/files", {}, BLOCK, 2)


def test_a_download_that_ends_early_has_failed() -> None:
    with (
        server(b"HTTP/1.1 200 OK\r\n\r\n" + BLOCK, bytearray(), b"\r\n\r\n") as address,
        pytest.raises(RoundFailed, match="ended early"),
    ):
        transfer.download(address, "/files", {}, BLOCK, 2)
