"""Bulk HTTP over plain sockets, in a thread: the client must cost less than what it measures.

Content is one block that is repeated, so that it can be made and compared without costing much either.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from cube.bench.load import RoundFailed

BLOCK = 1024 * 1024
_BOUNDARY = "0123456789abcdef0123456789abcdef"
_TIMEOUT = 120.0
_HEAD_LIMIT = 64 * 1024
#: Read at once while an answer's head is awaited; no block is smaller.
_HEAD_PIECE = 4096


def upload(address: tuple[str, int], path: str, headers: Mapping[str, str], block: bytes, blocks: int) -> float:
    """``POST`` the block so many times as one raw body; returns seconds. Raises ``RoundFailed``. Blocks."""
    kind = {"content-type": "application/octet-stream"}
    return _post(address, path, {**headers, **kind}, (b"", block, b""), blocks)


def upload_form(address: tuple[str, int], path: str, headers: Mapping[str, str], block: bytes, blocks: int) -> float:
    """The same as the only part of multipart/form-data."""
    kind = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'.encode()
    return _post(address, path, {**headers, **kind}, (head, block, f"\r\n--{_BOUNDARY}--\r\n".encode()), blocks)


def download(address: tuple[str, int], path: str, headers: Mapping[str, str], block: bytes, blocks: int) -> float:
    """``GET`` what must be the block so many times; returns seconds. Raises ``RoundFailed``. Blocks."""
    with _connected(address) as connection:
        begun = time.perf_counter()
        connection.sendall(_head("GET", path, {**headers, "accept-encoding": "identity"}))
        status, rest = _answer_head(connection)
        if status != 200:
            raise RoundFailed(f"the download was answered with {status}: {rest[:200]!r}")
        _compare(connection, rest, block, blocks)
        return time.perf_counter() - begun


def _post(
    address: tuple[str, int], path: str, headers: Mapping[str, str], parts: tuple[bytes, bytes, bytes], blocks: int
) -> float:
    before, block, after = parts
    length = len(before) + len(block) * blocks + len(after)
    with _connected(address) as connection:
        begun = time.perf_counter()
        connection.sendall(_head("POST", path, {**headers, "content-length": str(length)}) + before)
        for _ in range(blocks):
            connection.sendall(block)
        connection.sendall(after)
        status, rest = _answer_head(connection)
        elapsed = time.perf_counter() - begun
    if status != 200:
        raise RoundFailed(f"the upload was answered with {status}: {rest[:200]!r}")
    return elapsed


def _connected(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=_TIMEOUT)


def _head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _answer_head(connection: socket.socket) -> tuple[int, bytes]:
    """Status of an answer, and what came of its body already."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(_HEAD_PIECE)
        if not piece or len(received) > _HEAD_LIMIT:
            raise RoundFailed("the connection ended before the answer")
        received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), rest


def _compare(connection: socket.socket, begun: bytes, block: bytes, blocks: int) -> None:
    buffer = bytearray(len(block))
    buffer[: len(begun)] = begun
    filled = len(begun)
    with memoryview(buffer) as view:
        for _ in range(blocks):
            while filled < len(block):
                received = connection.recv_into(view[filled:], 0, socket.MSG_WAITALL)
                if received == 0:
                    raise RoundFailed("the download ended early")
                filled += received
            if buffer != block:
                raise RoundFailed("the download is not what was uploaded")
            filled = 0


def random_block() -> bytes:
    """Content that nothing can compress."""
    return os.urandom(BLOCK)
