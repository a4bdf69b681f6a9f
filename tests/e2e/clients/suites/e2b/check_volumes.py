"""Volumes: their life, their content over HTTP, and as directories of sandboxes."""

from __future__ import annotations

import io

import pytest
from harness import Client, joined, shows


@shows(
    "Volume.create Volume.list Volume.connect Volume.get_info Volume.destroy Volume.name Volume.volume_id Volume.token",
    since="2.45",
)
async def check_life(client: Client, unique: str) -> None:
    volume = await client.Volume.create(unique)
    assert volume.name == unique
    assert volume.token
    assert volume.volume_id in [item.volume_id for item in await client.Volume.list()]
    again = await client.Volume.connect(volume.volume_id)
    assert (again.name, again.token) == (unique, volume.token)
    assert (await client.Volume.get_info(volume.volume_id)).token == volume.token
    assert await client.Volume.destroy(volume.volume_id)
    assert not await client.Volume.destroy(volume.volume_id)
    with pytest.raises(client.types.NotFoundException):
        await client.Volume.get_info(volume.volume_id)


@shows("Volume.write_file Volume.read_file Volume.exists Volume.remove Volume.list Volume.make_dir", since="2.45")
async def check_content(client: Client, unique: str) -> None:
    volume = await client.Volume.create(unique)
    written = await volume.write_file("/ä b.txt", "grün")
    assert (written.path, written.size, written.type.value) == ("/ä b.txt", 5, "file")
    assert await volume.read_file("/ä b.txt") == "grün"
    await volume.write_file("/b", io.BytesIO(bytes(range(256)) * 1000))
    assert bytes(await volume.read_file("/b", format="bytes")) == bytes(range(256)) * 1000
    assert await joined(await volume.read_file("/b", format="stream")) == bytes(range(256)) * 1000
    assert (await volume.make_dir("/d")).type.value == "directory"
    await volume.write_file("/d/c", b"1")
    assert sorted(entry.name for entry in await volume.list("/")) == ["b", "d", "ä b.txt"]
    deep = {entry.path for entry in await volume.list("/", depth=2)}
    assert "/d/c" in deep
    assert await volume.exists("/d/c")
    await volume.remove("/d/c")
    assert not await volume.exists("/d/c")
    with pytest.raises(client.types.NotFoundException):
        await volume.read_file("/d/c")
    await client.Volume.destroy(volume.volume_id)


@shows("Volume.update_metadata Volume.get_info", since="2.45")
async def check_owner_and_mode(client: Client, unique: str) -> None:
    volume = await client.Volume.create(unique)
    await volume.write_file("/f", "x", uid=1000, gid=1000, mode=0o600)
    info = await volume.get_info("/f")
    assert (info.uid, info.gid, info.mode & 0o777, info.size) == (1000, 1000, 0o600, 1)
    changed = await volume.update_metadata("/f", uid=0, mode=0o644)
    assert (changed.uid, changed.gid, changed.mode & 0o777) == (0, 1000, 0o644)
    await client.Volume.destroy(volume.volume_id)


@shows("Volume.create Sandbox.create Volume.read_file", since="2.45")
async def check_a_volume_in_sandboxes(client: Client, unique: str) -> None:
    volume = await client.Volume.create(unique)
    mounts = {"/data": volume, "/also": unique}
    async with client.sandbox(volume_mounts={"/data": volume}) as first, client.sandbox(volume_mounts=mounts) as second:
        await first.files.write("/data/f", "from inside", user="root")
        assert await second.files.read("/data/f") == "from inside"
        assert await second.files.read("/also/f") == "from inside"
        assert await volume.read_file("/f") == "from inside"
    async with client.sandbox(volume_mounts={"/data": volume}) as later:
        assert await later.files.read("/data/f") == "from inside"
    await client.Volume.destroy(volume.volume_id)
