"""Files."""

from __future__ import annotations

import io

import pytest
from harness import Client, joined, shows

BYTES = bytes(range(256)) * 4096


@shows("Filesystem.write", "Filesystem.read", "Filesystem.exists")
async def check_text_and_bytes(client: Client) -> None:
    async with client.sandbox() as sandbox:
        written = await sandbox.files.write("notes/ä b.txt", "grün")
        assert (written.path, written.name) == ("/home/user/notes/ä b.txt", "ä b.txt")
        assert await sandbox.files.read("notes/ä b.txt") == "grün"
        await sandbox.files.write("/tmp/b", BYTES)
        assert bytes(await sandbox.files.read("/tmp/b", format="bytes")) == BYTES
        assert await joined(await sandbox.files.read("/tmp/b", format="stream")) == BYTES
        assert await sandbox.files.exists("/tmp/b")
        assert not await sandbox.files.exists("/tmp/c")


@shows("Filesystem.write", "Filesystem.read")
async def check_overwriting_and_users(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.files.write("f", "a long first text")
        await sandbox.files.write("f", "short")
        assert await sandbox.files.read("f") == "short"
        await sandbox.files.write("/root/secret", "x", user="root")
        assert await sandbox.files.read("/root/secret", user="root") == "x"
        with pytest.raises(client.types.SandboxException):
            await sandbox.files.read("/root/secret")


@shows("Filesystem.write", "Filesystem.read")
async def check_what_cannot_be_read_or_written(client: Client) -> None:
    async with client.sandbox() as sandbox:
        with pytest.raises(client.types.NotFoundException):
            await sandbox.files.read("missing")
        with pytest.raises(client.types.InvalidArgumentException):
            await sandbox.files.read("/tmp")
        with pytest.raises(client.types.InvalidArgumentException):
            await sandbox.files.write("/tmp", "x")


@shows("Filesystem.write", since="2.63", only="blocking")
async def check_a_full_disk(client: Client) -> None:
    """In one version and colour alone: sandboxes have more disk together than the test's service."""
    async with client.sandbox() as sandbox:
        await sandbox.commands.run("fallocate -l 5100M all")
        with pytest.raises(client.types.NotEnoughSpaceException):
            await sandbox.files.write("more", BYTES * 50)


@shows("Filesystem.write", since="2.45")
async def check_streams_and_compression(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.files.write("a", io.BytesIO(BYTES), use_octet_stream=True)
        assert bytes(await sandbox.files.read("a", format="bytes")) == BYTES
        await sandbox.files.write("b", BYTES, gzip=True)
        assert bytes(await sandbox.files.read("b", format="bytes", gzip=True)) == BYTES
        await sandbox.files.write("c", io.StringIO("text"))
        assert await sandbox.files.read("c") == "text"


@shows("Filesystem.write_files")
async def check_several_at_once(client: Client) -> None:
    async with client.sandbox() as sandbox:
        files = [{"path": f"many/{n}/f.txt", "data": str(n)} for n in range(20)]
        written = await sandbox.files.write_files(files)
        assert [entry.path for entry in written] == [f"/home/user/many/{n}/f.txt" for n in range(20)]
        assert [await sandbox.files.read(f"many/{n}/f.txt") for n in range(20)] == [str(n) for n in range(20)]
        assert await sandbox.files.write_files([]) == []


@shows("Filesystem.list")
async def check_listing(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.files.write_files([{"path": f"d/{name}", "data": "x"} for name in ("b", "a", "sub/c")])
        assert [entry.name for entry in await sandbox.files.list("d")] == ["a", "b", "sub"]
        deep = await sandbox.files.list("d", depth=2)
        assert [entry.path for entry in deep] == [f"/home/user/d/{path}" for path in ("a", "b", "sub", "sub/c")]
        assert [entry.type.value for entry in deep] == ["file", "file", "dir", "file"]
        with pytest.raises(client.types.InvalidArgumentException):
            await sandbox.files.list("d", depth=0)
        with pytest.raises(client.types.NotFoundException):
            await sandbox.files.list("missing")
        with pytest.raises(client.types.InvalidArgumentException):
            await sandbox.files.list("d/a")


@shows("Filesystem.get_info")
async def check_information(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.files.write("f", "12345")
        await sandbox.commands.run("chmod 640 f; ln -s f link; ln -s nowhere broken")
        info = await sandbox.files.get_info("f")
        assert (info.name, info.path, info.size, info.type.value) == ("f", "/home/user/f", 5, "file")
        assert (info.mode, info.permissions, info.owner, info.group) == (0o640, "-rw-r-----", "user", "user")
        assert info.modified_time.tzinfo is not None
        assert (await sandbox.files.get_info("link")).symlink_target == "/home/user/f"
        assert (await sandbox.files.get_info("/tmp")).type.value == "dir"
        with pytest.raises(client.types.NotFoundException):
            await sandbox.files.get_info("missing")


@shows("Filesystem.make_dir", "Filesystem.rename", "Filesystem.remove")
async def check_directories(client: Client) -> None:
    async with client.sandbox() as sandbox:
        assert await sandbox.files.make_dir("a/b/c")
        assert not await sandbox.files.make_dir("a/b/c")
        moved = await sandbox.files.rename("a/b", "x/y")
        assert moved.path == "/home/user/x/y"
        assert await sandbox.files.exists("x/y/c")
        await sandbox.files.remove("x")
        assert not await sandbox.files.exists("x")
        await sandbox.files.remove("x")
        with pytest.raises(client.types.NotFoundException):
            await sandbox.files.rename("missing", "there")


@shows("Filesystem.write", "Filesystem.get_info", "Filesystem.write_files", since="2.45")
async def check_metadata(client: Client) -> None:
    async with client.sandbox() as sandbox:
        written = await sandbox.files.write("f", "x", metadata={"author": "me"})
        assert written.metadata == {"author": "me"}
        assert (await sandbox.files.get_info("f")).metadata == {"author": "me"}
        await sandbox.files.write("f", "y")
        assert not (await sandbox.files.get_info("f")).metadata
        await sandbox.files.write_files([{"path": "g", "data": "x"}], metadata={"k": "v"})
        (entry,) = [entry for entry in await sandbox.files.list(".") if entry.name == "g"]
        assert entry.metadata == {"k": "v"}
