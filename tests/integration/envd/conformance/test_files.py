"""Files, as the client's users write them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from e2b import (
    AsyncSandbox,
    AuthenticationException,
    FileNotFoundException,
    FileType,
    InvalidArgumentException,
    Sandbox,
)
from e2b.sandbox.filesystem.filesystem import WriteEntry

BIG = bytes(range(256)) * 10_000


@pytest.mark.parametrize(
    "options", [{}, {"use_octet_stream": True}, {"gzip": True}, {"use_octet_stream": False}], ids=str
)
@pytest.mark.parametrize("content", ["text ä€", b"\xff\x00bytes", "", BIG], ids=["text", "bytes", "empty", "big"])
def test_write_and_read(client: Sandbox, home: str, content: str | bytes, options: dict[str, Any]) -> None:
    info = client.files.write("deep/er/file", content, **options)
    assert (info.path, info.name) == (f"{home}/deep/er/file", "file")
    expected = content.encode() if isinstance(content, str) else content
    assert client.files.read("deep/er/file", format="bytes") == expected
    assert client.files.read("deep/er/file", format="bytes", gzip=True) == expected


def test_write_from_a_stream(client: Sandbox) -> None:
    client.files.write("file", io.BytesIO(BIG), use_octet_stream=True)
    assert b"".join(client.files.read("file", format="stream")) == BIG


def test_write_many(client: Sandbox, home: str) -> None:
    infos = client.files.write_files(
        [
            WriteEntry(path="a b/1", data="one"),
            WriteEntry(path=f"{home}/ü/2", data=b"two"),
            WriteEntry(path="3", data=BIG),
        ]
    )
    assert [info.path for info in infos] == [f"{home}/a b/1", f"{home}/ü/2", f"{home}/3"]
    assert [client.files.read(info.path, format="bytes") for info in infos] == [b"one", b"two", BIG]


def test_overwrite(client: Sandbox) -> None:
    client.files.write("file", "long content")
    client.files.write("file", "short")
    assert client.files.read("file") == "short"


def test_who_owns_what_is_written(client: Sandbox) -> None:
    client.files.write("new/file", "x")
    user = client.commands.run("id -un").stdout.strip()
    info = client.files.get_info("new/file")
    assert (info.owner, info.mode, info.permissions) == (user, 0o644, "-rw-r--r--")
    assert client.files.get_info("new").mode == 0o755
    assert client.commands.run("stat -c %a new/file new").stdout == "644\n755\n"


def test_metadata(client: Sandbox) -> None:
    client.files.write("file", "x", metadata={"Origin": "test", "k": "a b"})
    assert client.files.get_info("file").metadata == {"origin": "test", "k": "a b"}
    assert client.files.list("")[0].metadata == {"origin": "test", "k": "a b"}
    client.files.write("file", "x", metadata={"k": "c"})
    assert client.files.get_info("file").metadata == {"k": "c"}
    client.files.write("file", "x")
    assert not client.files.get_info("file").metadata


def test_metadata_from_inside(client: Sandbox) -> None:
    client.files.write("file", "x")
    python = "python3 -c \"import os; os.setxattr('file', 'user.e2b.inside', b'yes')\""
    client.commands.run(f"setfattr -n user.e2b.inside -v yes file 2>/dev/null || {python}")
    assert client.files.get_info("file").metadata == {"inside": "yes"}


def test_what_does_not_exist(client: Sandbox) -> None:
    assert not client.files.exists("missing")
    for call in (client.files.read, client.files.get_info, client.files.list):
        with pytest.raises(FileNotFoundException):
            call("missing")
    with pytest.raises(FileNotFoundException):
        client.files.rename("missing", "other")
    client.files.remove("missing")


def test_directories_are_no_files(client: Sandbox) -> None:
    client.files.make_dir("dir")
    client.files.write("file", "x")
    with pytest.raises(InvalidArgumentException):
        client.files.read("dir")
    with pytest.raises(InvalidArgumentException):
        client.files.write("dir", "x")
    with pytest.raises(InvalidArgumentException):
        client.files.list("file")
    with pytest.raises(InvalidArgumentException):
        client.files.make_dir("file")


def test_an_unknown_user(client: Sandbox) -> None:
    for call in (client.files.read, client.files.get_info, client.files.list, client.files.remove):
        with pytest.raises(AuthenticationException, match="invalid username: 'stranger'"):
            call("file", user="stranger")


def test_make_dir(client: Sandbox) -> None:
    assert client.files.make_dir("a/b/c")
    assert not client.files.make_dir("a/b/c")
    assert client.files.get_info("a/b/c").type is FileType.DIR


def test_list(client: Sandbox, home: str) -> None:
    for path in ("b/2/x", "b/1", "a", "c/y"):
        client.files.write(path, "x")
    assert [entry.path for entry in client.files.list(home)] == [f"{home}/{name}" for name in "abc"]
    names = [entry.path.removeprefix(home) for entry in client.files.list("", depth=2)]
    assert names == ["/a", "/b", "/b/1", "/b/2", "/c", "/c/y"]
    assert len(client.files.list("", depth=10)) == 7


def test_list_through_a_link_keeps_the_asked_path(client: Sandbox, home: str) -> None:
    client.files.write("real/file", "x")
    client.commands.run("ln -s real link")
    assert [entry.path for entry in client.files.list("link")] == [f"{home}/link/file"]


def test_links(client: Sandbox, home: str) -> None:
    client.files.write("file", "12345")
    client.commands.run("ln -s file link; ln -s nowhere dangling")
    info = client.files.get_info("link")
    assert (info.type, info.size, info.symlink_target) == (FileType.SYMLINK, 5, f"{home}/file")
    assert info.permissions == "Lrwxrwxrwx"
    assert client.files.exists("dangling")
    assert client.files.read("link") == "12345"


def test_rename(client: Sandbox, home: str) -> None:
    client.files.write("old", "x")
    assert client.files.rename("old", "new/place").path == f"{home}/new/place"
    assert client.files.read("new/place") == "x"
    assert not client.files.exists("old")


def test_remove_a_tree(client: Sandbox) -> None:
    client.files.write("tree/a/b/c", "x")
    client.commands.run("mkdir outside; touch outside/kept; ln -s ../outside tree/link")
    client.files.remove("tree")
    assert not client.files.exists("tree")
    assert client.files.exists("outside/kept")


def test_paths(client: Sandbox, home: str) -> None:
    client.files.write("~/a", "x")
    client.files.make_dir("b")
    assert client.files.read("a") == client.files.read(f"{home}/a") == client.files.read("./b/../a") == "x"


def test_names_with_odd_characters(client: Sandbox, home: str) -> None:
    name = "a'b \\ %41 ☃\n.txt"
    client.files.write_files([WriteEntry(path="plain", data="x")])
    client.files.write(name, "x", use_octet_stream=True)
    assert name in [entry.name for entry in client.files.list("")]
    assert client.files.read(name) == "x"


class TestAsync:
    async def test_write_and_read(self, async_client: AsyncSandbox) -> None:
        await async_client.files.write("file", BIG, use_octet_stream=True)
        assert await async_client.files.read("file", format="bytes") == BIG
        pieces = [piece async for piece in await async_client.files.read("file", format="stream")]
        assert b"".join(pieces) == BIG

    async def test_the_rest(self, async_client: AsyncSandbox) -> None:
        await async_client.files.write("a/file", "x")
        assert [entry.name for entry in await async_client.files.list("a")] == ["file"]
        await async_client.files.rename("a/file", "b")
        assert await async_client.files.exists("b")
        await async_client.files.remove("b")
        assert not await async_client.files.exists("b")
