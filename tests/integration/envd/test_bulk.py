"""Bodies that are long enough to be read in bulk, over plain sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cube.cubelet.cgroups.events import poll_until
from cube.envd import bulk
from cube.envd.bulk import LARGE_PIECE, PIECE
from cube.envd.files import ways
from cube.envd.files.descriptor import DescriptorFile
from cube.envd.files.ways import FileSink, Speeds, Way
from cube.envd.guest import Buffer
from support.envd_server import TOKEN, EnvdServer
from support.local_guest import LocalGuest

RAW, FORM = "application/octet-stream", "multipart/form-data; boundary=b"
HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: i1\r\n\r\n"


def content(size: int) -> bytes:
    """Every place of it is another, and there are line ends in it."""
    return b"".join(b"%08x\r\n--b\r" % number for number in range(size // 14 + 1))[:size]


def head(path: Path, length: int, kind: str = RAW) -> bytes:
    lines = [f"POST /files?path={path} HTTP/1.1", "host: x", "e2b-sandbox-id: i1", f"x-access-token: {TOKEN}"]
    return "\r\n".join([*lines, f"content-type: {kind}", f"content-length: {length}", "\r\n"]).encode()


def form(data: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + data + b"\r\n--b--\r\n"


@contextmanager
def connected(server: EnvdServer) -> Iterator[socket.socket]:
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        yield connection


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and head of the next answer; its body is read too."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1) or pytest.fail(f"no answer: {received!r}")
    lengths = [line.split(b":")[1] for line in received.splitlines() if line.startswith(b"content-length:")]
    left = int(lengths[0]) if lengths else 0
    while left:
        left -= len(connection.recv(left))
    return int(received.split(b" ", 2)[1]), received


@pytest.mark.parametrize("size", [PIECE, PIECE + 1, 3 * PIECE, 5 * PIECE + 17])
@pytest.mark.parametrize("kind", [RAW, FORM], ids=["raw", "form"])
def test_what_was_sent_is_in_the_file(server: EnvdServer, tmp_path: Path, kind: str, size: int) -> None:
    """And the connection is good for the next request, which came together with the last byte."""
    data = content(size)
    body = data if kind == RAW else form(data.replace(b"\r\n--b", b"\r\n--c"))
    with connected(server) as connection:
        connection.sendall(head(tmp_path / "file", len(body), kind) + body + HEALTH)
        assert answer(connection)[0] == 200
        assert answer(connection)[0] == 204
    assert (tmp_path / "file").read_bytes() == (data if kind == RAW else data.replace(b"\r\n--b", b"\r\n--c"))


@pytest.mark.parametrize("kind", [RAW, FORM], ids=["raw", "form"])
def test_a_file_is_written_in_whole_pages(
    server: EnvdServer, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in the body it begins."""
    ends: list[int] = []

    def write(file: DescriptorFile, data: Buffer) -> asyncio.Future[None]:
        ends.append((ends[-1] if ends else 0) + len(data))
        return plain(file, data)

    plain = DescriptorFile.write
    monkeypatch.setattr(DescriptorFile, "write", write)
    data = b"x" * (5 * PIECE + 17)
    body = data if kind == RAW else form(data)
    with connected(server) as connection:
        connection.sendall(head(tmp_path / "file", len(body), kind) + body)
        assert answer(connection)[0] == 200
    assert ends.pop() == len(data)
    assert ends == [PIECE * number for number in range(1, 6)]


@pytest.mark.parametrize("kind", [RAW, FORM], ids=["raw", "form"])
def test_a_long_body_comes_in_large_pieces_past_the_cache(
    server: EnvdServer, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is the same file."""
    monkeypatch.setattr(bulk, "_LONG", 2 * LARGE_PIECE)
    monkeypatch.setattr(ways, "CACHED_FIRST", LARGE_PIECE)
    monkeypatch.setattr(Speeds, "next", lambda _: Way.DIRECT)
    direct: list[int] = []
    plain = FileSink._write_direct

    def write_direct(sink: FileSink, data: Buffer) -> None:
        direct.append(len(data))
        plain(sink, data)

    monkeypatch.setattr(FileSink, "_write_direct", write_direct)
    data = content(5 * LARGE_PIECE + 17).replace(b"\r", b"r")  # nothing that may be the beginning of a boundary
    body = data if kind == RAW else form(data)
    with connected(server) as connection:
        connection.sendall(head(tmp_path / "file", len(body), kind) + body)
        assert answer(connection)[0] == 200
    assert (tmp_path / "file").read_bytes() == data
    assert direct == [LARGE_PIECE] * 4


async def test_the_memory_of_large_pieces_is_given_to_few(
    server: EnvdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And comes back, also from a client that goes away."""
    monkeypatch.setattr(bulk, "_LONG", 2 * PIECE)
    monkeypatch.setattr(bulk, "_LARGE_AT_ONCE", 1)
    sizes: list[int] = []
    plain = bulk._Reader.__init__

    def begin(reader: bulk._Reader, server: bulk.BulkServer, size: int) -> None:
        sizes.append(size)
        plain(reader, server, size)

    monkeypatch.setattr(bulk._Reader, "__init__", begin)
    data = content(3 * PIECE)
    with connected(server) as first:
        first.sendall(head(tmp_path / "first", len(data)) + data[:PIECE])
        assert await poll_until(lambda: len(sizes) == 1, 10)
        with connected(server) as second:
            second.sendall(head(tmp_path / "second", len(data)) + data)
            assert answer(second)[0] == 200
    assert await poll_until(lambda: not (tmp_path / "first").exists(), 10)
    with connected(server) as third:
        third.sendall(head(tmp_path / "third", len(data)) + data)
        assert answer(third)[0] == 200
    assert sizes == [LARGE_PIECE, PIECE, LARGE_PIECE]


def test_a_client_that_sends_little_at_a_time(server: EnvdServer, tmp_path: Path) -> None:
    data = content(2 * PIECE + 5)
    with connected(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head(tmp_path / "file", len(data)))
        for begun in range(0, len(data), 100_003):
            connection.sendall(data[begun : begun + 100_003])
        assert answer(connection)[0] == 200
    assert (tmp_path / "file").read_bytes() == data


def test_the_rest_of_a_refused_body_is_no_request(server: EnvdServer, tmp_path: Path) -> None:
    """The body is refused in its middle, for it has a file twice; what follows would be requests to write another."""
    part = form(content(2 * PIECE))[: -len(b"--\r\n")] + b"\r\n"
    request = head(tmp_path / "smuggled", 1) + b"x"
    data = part + part.removeprefix(b"--b\r\n") + request * (4 * PIECE // len(request))
    with connected(server) as connection:
        connection.sendall(head(tmp_path / "file", len(data), FORM) + data[: 2 * PIECE + PIECE // 2])
        assert answer(connection)[0] == 400
        connection.sendall(data[2 * PIECE + PIECE // 2 :] + HEALTH)
        assert answer(connection)[0] == 204
    assert not (tmp_path / "smuggled").exists()


def test_a_body_that_is_refused_at_once_is_passed_over(server: EnvdServer, tmp_path: Path) -> None:
    data = content(3 * PIECE)
    with connected(server) as connection:
        connection.sendall(head(tmp_path, len(data)) + data + HEALTH)
        assert [answer(connection)[0], answer(connection)[0]] == [400, 204]


async def test_a_body_that_is_cut_off_leaves_nothing(server: EnvdServer, tmp_path: Path, guest: LocalGuest) -> None:
    with connected(server) as connection:
        connection.sendall(head(tmp_path / "file", 4 * PIECE) + content(2 * PIECE + 9))
        assert await poll_until((tmp_path / "file").exists, 30)
    assert await poll_until(lambda: not (tmp_path / "file").exists(), 30)


def test_a_length_that_is_no_number_is_refused(server: EnvdServer, tmp_path: Path) -> None:
    with connected(server) as connection:
        connection.sendall(head(tmp_path / "file", 0).replace(b"content-length: 0", b"content-length: \xb2"))
        assert answer(connection)[0] == 400
