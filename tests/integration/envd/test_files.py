"""``/files`` over HTTP: what arrives on disk, what comes back, and what is left when something breaks."""

from __future__ import annotations

import gzip
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from cube.envd.auth import signature
from cube.envd.files import blocking
from cube.envd.files.descriptor import DescriptorFile
from cube.envd.guest import OpenedFile
from support.connect_rpc import RpcClient
from support.envd_server import TOKEN, EnvdServer, make_sandbox
from support.local_guest import LocalGuest

BIG = bytes(range(256)) * 12_000


def until(condition: Callable[[], Any]) -> Any:
    limit = time.monotonic() + 10
    while not (value := condition()):
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.005)
    return value


def open_files(directory: Path) -> list[str]:
    """What this process has open below a directory."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in found if path.startswith(str(directory))]


@pytest.fixture
def http(rpc: RpcClient) -> httpx.Client:
    return rpc.http


@pytest.fixture
def home(guest: LocalGuest) -> Path:
    return guest.home


def upload(http: httpx.Client, path: str, content: Any, **headers: str) -> httpx.Response:
    fields = {"Content-Type": "application/octet-stream"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return http.post("/files", params={"path": path}, content=content, headers=fields)


class TestUpload:
    def test_raw(self, http: httpx.Client, home: Path) -> None:
        answer = upload(http, "deep/er/a.bin", BIG)
        assert answer.json() == [{"path": f"{home}/deep/er/a.bin", "name": "a.bin", "type": "file"}]
        assert (home / "deep/er/a.bin").read_bytes() == BIG

    def test_chunked(self, http: httpx.Client, home: Path) -> None:
        pieces: Iterator[bytes] = (BIG[start : start + 7777] for start in range(0, len(BIG), 7777))
        assert upload(http, "a", pieces).status_code == 200
        assert (home / "a").read_bytes() == BIG

    def test_compressed(self, http: httpx.Client, home: Path) -> None:
        assert upload(http, "a", gzip.compress(BIG), Content_Encoding="gzip").status_code == 200
        assert (home / "a").read_bytes() == BIG

    def test_empty(self, http: httpx.Client, home: Path) -> None:
        assert upload(http, "a", b"").status_code == 200
        assert (home / "a").read_bytes() == b""

    def test_it_replaces(self, http: httpx.Client, home: Path) -> None:
        (home / "a").write_bytes(BIG)
        assert upload(http, "a", b"short").status_code == 200
        assert (home / "a").read_bytes() == b"short"

    def test_multipart_with_paths_as_names(self, http: httpx.Client, home: Path) -> None:
        files = [("file", (f"{home}/x/1", b"one")), ("other", ("y", b"no")), ("file", ("sub/2", BIG))]
        answer = http.post("/files", files=files)
        assert [record["path"] for record in answer.json()] == [f"{home}/x/1", f"{home}/sub/2"]
        assert (home / "x/1").read_bytes() == b"one"
        assert (home / "sub/2").read_bytes() == BIG
        assert not (home / "y").exists()

    def test_multipart_to_the_path_of_the_query(self, http: httpx.Client, home: Path) -> None:
        answer = http.post("/files", params={"path": "here"}, files={"file": ("ignored", b"content")})
        assert answer.json()[0]["name"] == "here"
        assert (home / "here").read_bytes() == b"content"

    def test_metadata_is_replaced_as_a_whole(self, http: httpx.Client, rpc: RpcClient, home: Path) -> None:
        answer = upload(http, "a", b"1", X_Metadata_Owner="me", X_Metadata_Kind="x y")
        assert answer.json()[0]["metadata"] == {"owner": "me", "kind": "x y"}
        stat = rpc.unary("filesystem.Filesystem/Stat", {"path": "a"}).json()
        assert stat["entry"]["metadata"] == {"owner": "me", "kind": "x y"}
        upload(http, "a", b"2", X_Metadata_Kind="z")
        assert os.listxattr(home / "a") == ["user.e2b.kind"]
        assert "metadata" not in upload(http, "a", b"3").json()[0]
        assert os.listxattr(home / "a") == []

    def test_a_new_file_is_create_chmod_write(self, http: httpx.Client, rpc: RpcClient) -> None:
        made = rpc.unary("filesystem.Filesystem/CreateWatcher", {"path": ""}).json()
        upload(http, "a", b"content")
        events = rpc.unary("filesystem.Filesystem/GetWatcherEvents", made).json()["events"]
        assert [event["type"] for event in events] == ["EVENT_TYPE_CREATE", "EVENT_TYPE_CHMOD", "EVENT_TYPE_WRITE"]

    @pytest.mark.parametrize(
        ("path", "headers", "text"),
        [
            ("dir", {}, "dir"),
            ("", {}, "'path' is missing"),
            ("a\0b", {}, "NUL"),
            ("a", {"Content_Type": "text/plain"}, "Content-Type"),
            ("a", {"Content_Encoding": "br"}, "Content-Encoding"),
            ("a", {"Content_Encoding": "gzip"}, "not gzip"),
            ("a", {"X_Metadata_k": "v" * 5000}, "metadata"),
            ("", {"Content_Type": "multipart/form-data; boundary=b"}, "last boundary"),
            ("", {"Content_Type": "multipart/form-data"}, "boundary"),
        ],
    )
    def test_refused(self, http: httpx.Client, home: Path, path: str, headers: dict[str, str], text: str) -> None:
        (home / "dir").mkdir()
        answer = upload(http, path, b"plain text", **headers)
        assert answer.status_code == answer.json()["code"] == 400
        assert text in answer.json()["message"]
        assert not (home / "a").exists()

    @pytest.mark.parametrize(
        ("path", "files", "text"),
        [
            ("", [("file", ("same", b"1")), ("file", ("same", b"2"))], "twice"),
            ("", [("file", ("same", b"1")), ("file", ("./same", b"2"))], "twice"),
            ("a", [("file", ("1", b"1")), ("file", ("2", b"2"))], "twice"),
            ("", [("other", ("a", b"1"))], "no part named 'file'"),
            ("", [("file", (None, b"1"))], "where to write"),
        ],
    )
    def test_parts_refused(self, http: httpx.Client, path: str, files: Any, text: str) -> None:
        answer = http.post("/files", params={"path": path} if path else {}, files=files)
        assert answer.status_code == answer.json()["code"] == 400
        assert text in answer.json()["message"]

    def test_an_unknown_user(self, http: httpx.Client) -> None:
        answer = http.post("/files", params={"path": "a", "username": "stranger"}, files={"file": ("a", b"")})
        assert (answer.status_code, answer.json()["message"]) == (401, "invalid username: 'stranger'")

    def test_no_space(self, http: httpx.Client, guest: LocalGuest, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def full(path: str, user: str, *, mode: int = 0o666) -> OpenedFile:
            opened = await LocalGuest.open_write(guest, path, user)
            opened.file.close()
            return OpenedFile(DescriptorFile(os.open("/dev/full", os.O_WRONLY)), opened.entry)

        monkeypatch.setattr(guest, "open_write", full)
        answer = upload(http, "a", BIG)
        assert answer.status_code == 507
        assert "disk space" in answer.json()["message"]
        assert not (home / "a").exists()


class TestBrokenUpload:
    def send_half(self, server: EnvdServer, path: str) -> socket.socket:
        parts = urlsplit(server.url)
        connection = socket.create_connection((parts.hostname, parts.port))
        head = (
            f"POST /files?path={path} HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: i1\r\nX-Access-Token: {TOKEN}\r\n"
            "Content-Type: application/octet-stream\r\nContent-Length: 10000000\r\n\r\n"
        )
        connection.sendall(head.encode() + bytes(3_000_000))
        return connection

    def test_a_new_file_is_removed(self, server: EnvdServer, home: Path) -> None:
        connection = self.send_half(server, "a")
        until(lambda: (home / "a").exists() and (home / "a").stat().st_size)
        connection.close()
        until(lambda: not (home / "a").exists())

    def test_an_old_one_stays_cut_off(self, server: EnvdServer, home: Path) -> None:
        (home / "a").write_bytes(b"old")
        connection = self.send_half(server, "a")
        until(lambda: (home / "a").stat().st_size > 3)
        connection.close()
        time.sleep(0.2)
        assert set((home / "a").read_bytes()) == {0}

    def test_only_the_last_of_several_is_removed(self, http: httpx.Client, home: Path) -> None:
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\ncontent'
        body = part % b"1" + b"\r\n" + part % b"2"
        answer = http.post("/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert answer.status_code == 400
        assert (home / "1").read_bytes() == b"content"
        assert not (home / "2").exists()

    def test_a_bomb_fills_the_disk_not_the_memory(
        self, http: httpx.Client, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []
        write_all = blocking.write_all

        def recorded(fd: int, data: bytes) -> None:
            sizes.append(len(data))
            write_all(fd, data)

        monkeypatch.setattr("cube.envd.files.ways.write_all", recorded)
        bomb = gzip.compress(bytes(50_000_000))
        assert upload(http, "a", bomb, Content_Encoding="gzip").status_code == 200
        assert (home / "a").stat().st_size == sum(sizes) == 50_000_000
        assert max(sizes) <= 2 * blocking.CHUNK


class TestDownload:
    @pytest.fixture(autouse=True)
    def _files(self, home: Path) -> None:
        (home / "big.bin").write_bytes(BIG)
        (home / "empty").touch()
        (home / "dir").mkdir()
        (home / 'grün "x".txt').write_text("named")

    def get(self, http: httpx.Client, path: str, **headers: str) -> httpx.Response:
        fields = {"Accept-Encoding": "identity"} | {name.replace("_", "-"): value for name, value in headers.items()}
        return http.get("/files", params={"path": path}, headers=fields)

    def test_whole(self, http: httpx.Client) -> None:
        answer = self.get(http, "big.bin")
        assert answer.content == BIG
        assert answer.headers["Content-Length"] == str(len(BIG))
        assert answer.headers["Content-Disposition"] == 'inline; filename="big.bin"'
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Vary"] == "Accept-Encoding"

    def test_empty(self, http: httpx.Client) -> None:
        answer = self.get(http, "empty")
        assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (200, b"", "0")

    def test_a_file_of_the_kernel_that_hides_its_size(self, http: httpx.Client) -> None:
        assert b"processor" in self.get(http, "/proc/cpuinfo").content

    def test_a_name_with_any_characters(self, http: httpx.Client) -> None:
        answer = self.get(http, 'grün "x".txt')
        assert answer.content == b"named"
        assert answer.headers["Content-Disposition"] == "inline; filename*=UTF-8''gr%C3%BCn%20%22x%22.txt"
        assert answer.headers["Content-Type"] == "text/plain"

    def test_compressed_for_who_asks(self, http: httpx.Client) -> None:
        answer = self.get(http, "big.bin", Accept_Encoding="gzip")
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.content == BIG

    def test_plain_for_who_would_take_anything(self, http: httpx.Client) -> None:
        assert "Content-Encoding" not in self.get(http, "big.bin", Accept_Encoding="gzip, deflate, br").headers

    def test_a_range(self, http: httpx.Client) -> None:
        answer = self.get(http, "big.bin", Range="bytes=1000-1999", Accept_Encoding="gzip")
        assert answer.status_code == 206
        assert answer.content == BIG[1000:2000]
        assert answer.headers["Content-Range"] == f"bytes 1000-1999/{len(BIG)}"

    def test_a_range_outside(self, http: httpx.Client) -> None:
        answer = self.get(http, "big.bin", Range="bytes=99999999-")
        assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{len(BIG)}")

    def test_not_modified(self, http: httpx.Client) -> None:
        tag = self.get(http, "big.bin").headers["ETag"]
        answer = self.get(http, "big.bin", If_None_Match=tag)
        assert (answer.status_code, answer.content) == (304, b"")

    def test_head(self, http: httpx.Client) -> None:
        answer = http.head("/files", params={"path": "big.bin"})
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["Content-Length"] == str(len(BIG))

    @pytest.mark.parametrize(
        ("params", "status", "message"),
        [
            ({"path": "missing"}, 404, "path 'missing' does not exist"),
            ({"path": "dir"}, 400, None),
            ({"path": "/dev/zero"}, 400, None),
            ({}, 400, "the query parameter 'path' is missing"),
            ({"path": "a\0"}, 400, None),
            ({"path": "big.bin", "username": "stranger"}, 401, "invalid username: 'stranger'"),
        ],
    )
    def test_refused(self, http: httpx.Client, params: Any, status: int, message: str | None) -> None:
        answer = http.get("/files", params=params)
        assert answer.status_code == answer.json()["code"] == status
        assert message is None or answer.json()["message"] == message

    def test_nothing_acceptable(self, http: httpx.Client) -> None:
        assert self.get(http, "big.bin", Accept_Encoding="identity;q=0").status_code == 406

    def test_a_fifo_does_not_block(self, http: httpx.Client, home: Path) -> None:
        os.mkfifo(home / "fifo")
        assert self.get(http, "fifo").status_code == 400

    def test_a_file_that_shrinks_ends_the_connection(
        self, http: httpx.Client, home: Path, guest: LocalGuest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def stale(path: str, user: str) -> OpenedFile:
            opened = await LocalGuest.open_read(guest, path, user)
            os.truncate(home / "big.bin", 10)
            return opened

        monkeypatch.setattr(guest, "open_read", stale)
        with pytest.raises(httpx.RemoteProtocolError):
            self.get(http, "big.bin")

    def test_a_client_that_leaves_stops_the_reading(self, server: EnvdServer, http: httpx.Client, home: Path) -> None:
        with open(home / "sparse", "wb") as file:
            file.truncate(2**40)
        with http.stream("GET", "/files", params={"path": "sparse"}, headers={"Accept-Encoding": "identity"}) as answer:
            next(answer.iter_raw())
        until(lambda: not open_files(home))


class TestSandboxStops:
    """What is under way is broken off, and no descriptor of the sandbox's file system stays open."""

    def test_a_download(self, server: EnvdServer, http: httpx.Client, home: Path) -> None:
        with open(home / "sparse", "wb") as file:
            file.truncate(2**40)
        with http.stream("GET", "/files", params={"path": "sparse"}, headers={"Accept-Encoding": "identity"}) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            server.run(server.sandboxes.close_state("i1"))
            assert open_files(home) == []
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)

    def test_an_upload(self, server: EnvdServer, home: Path) -> None:
        connection = TestBrokenUpload().send_half(server, "a")
        until(lambda: (home / "a").exists() and (home / "a").stat().st_size)
        server.run(server.sandboxes.close_state("i1"))
        assert open_files(home) == []
        assert not (home / "a").exists()
        assert connection.recv(100).startswith(b"HTTP/1.1 502")
        connection.close()

    def test_the_next_request(self, server: EnvdServer, http: httpx.Client, home: Path) -> None:
        (home / "a").touch()
        assert http.get("/files", params={"path": "a"}).status_code == 200
        server.run(server.sandboxes.close_state("i1"))
        assert http.get("/files", params={"path": "a"}).status_code == 502


class TestSignedUrls:
    def query(self, path: str, operation: str, token: str = TOKEN, **extra: str) -> dict[str, str]:
        expiration = extra.get("signature_expiration", "")
        signed = signature(path, operation, extra.get("username", ""), token, expiration)
        return {"path": path, "signature": signed, **extra}

    def test_without_a_routing_header_the_signature_finds_the_sandbox(
        self, server: EnvdServer, home: Path, tmp_path: Path
    ) -> None:
        (home / "a").write_bytes(b"mine")
        (tmp_path / "other").mkdir()
        server.sandboxes.add(make_sandbox(LocalGuest(tmp_path / "other"), "i2", access_token="another token"))
        assert httpx.get(f"{server.url}/files", params=self.query("a", "read")).content == b"mine"
        other = self.query("b", "write", "another token", signature_expiration=str(int(time.time()) + 60))
        assert httpx.post(f"{server.url}/files", params=other, files={"file": ("b", b"2")}).status_code == 200
        assert (tmp_path / "other/b").read_bytes() == b"2"

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            ({"signature": "v1_wrong"}, "invalid signature"),
            ({"signature_expiration": "1000"}, "signature is already expired"),
        ],
    )
    def test_refused(self, server: EnvdServer, extra: dict[str, str], message: str) -> None:
        params = self.query("a", "read", **({} if "signature" in extra else extra)) | extra
        answer = httpx.get(f"{server.url}/files", params=params)
        assert (answer.status_code, answer.json()["message"]) == (401, message)

    def test_a_signature_is_for_files_only(self, server: EnvdServer) -> None:
        answer = httpx.get(f"{server.url}/envs", params=self.query("a", "read"))
        assert answer.status_code == 404

    def test_with_a_routing_header(self, server: EnvdServer, home: Path) -> None:
        (home / "a").write_bytes(b"mine")
        headers = {"E2b-Sandbox-Id": "i1"}
        assert httpx.get(f"{server.url}/files", params=self.query("a", "read"), headers=headers).content == b"mine"
        answer = httpx.get(f"{server.url}/files", params={"path": "a"}, headers=headers)
        assert (answer.status_code, answer.json()["message"]) == (401, "missing signature query parameter")


class TestCompose:
    def test_parts_become_one(self, http: httpx.Client, home: Path) -> None:
        for name in "abc":
            (home / name).write_bytes(name.encode() * 1_500_000)
        answer = http.post("/files/compose", json={"source_paths": ["c", "a", "b"], "destination": "sub/all"})
        assert answer.json() == {"path": f"{home}/sub/all", "name": "all", "type": "file"}
        assert (home / "sub/all").read_bytes() == b"c" * 1_500_000 + b"a" * 1_500_000 + b"b" * 1_500_000
        assert not any((home / name).exists() for name in "abc")

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"source_paths": ["a", "missing"], "destination": "all"}, 404),
            ({"source_paths": ["a"], "destination": "a"}, 400),
            ({"source_paths": ["a"], "destination": "./a"}, 400),
            ({"source_paths": ["a"], "destination": "link"}, 400),
            ({"source_paths": ["dir"], "destination": "all"}, 400),
            ({"source_paths": [], "destination": "all"}, 400),
            ({"source_paths": "a", "destination": "all"}, 400),
            ({"source_paths": [1], "destination": "all"}, 400),
            ({"source_paths": ["a"]}, 400),
            ({"source_paths": ["a"], "destination": "all", "username": "stranger"}, 401),
            ([], 400),
        ],
    )
    def test_refused_and_nothing_is_lost(self, http: httpx.Client, home: Path, body: Any, status: int) -> None:
        (home / "a").write_bytes(b"content")
        (home / "link").symlink_to("a")
        (home / "dir").mkdir()
        assert http.post("/files/compose", json=body).status_code == status
        assert (home / "a").read_bytes() == b"content"
        assert not (home / "all").exists()
