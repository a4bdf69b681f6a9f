"""Volumes of clients on the real file system, beside the layers of sandboxes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from cube.cubelet.storage import btrfs, mounts
from cube.cubelet.storage.volume import Volume
from cube.cubelet.volumes.layout import VolumeLayout
from cube.cubelet.volumes.store import VolumeStore
from cube.model.errors import Conflict, InvalidInput, StorageFull, VolumeNotFound
from cube.model.volumes import Attributes
from cube.settings import Settings

pytestmark = pytest.mark.root

MIB = 1 << 20
BTRFS_IOC_SYNC = 0x9408
FIRST, SECOND = "vol-" + "0" * 24, "vol-" + "1" * 24


@pytest.fixture
async def store(volume: Volume, settings: Settings) -> VolumeStore:
    return opened(settings)


def opened(settings: Settings) -> VolumeStore:
    store = VolumeStore(settings)
    store.open()
    return store


async def content(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // MIB):
        yield b"x" * MIB


def groups(settings: Settings) -> set[str]:
    """The quota groups that there are."""
    with btrfs.directory(settings.volume_dir) as fd:
        return set(os.listdir(btrfs.qgroups_directory(fd)))


def flood(directory: int, prefix: str) -> None:
    for number in range(100_000):
        os.close(os.open(f"{prefix}{number:0200}", os.O_CREAT, dir_fd=directory))


async def test_a_volume_is_made_and_removed(store: VolumeStore, settings: Settings) -> None:
    await store.create(FIRST, 64)
    assert await store.names() == {FIRST}
    root = VolumeLayout(settings).open_root(FIRST)
    found = os.fstat(root)
    os.close(root)
    owner = settings.shared_id_base + 1000
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (owner, owner, 0o777)
    with pytest.raises(Conflict):
        await store.create(FIRST, 64)
    await store.content(FIRST).write("/file", content(MIB), Attributes())
    await store.remove(FIRST)
    await store.remove(FIRST)
    assert await store.names() == set()
    for attempt in (lambda: store.content(FIRST), lambda: VolumeLayout(settings).open_root(FIRST)):
        with pytest.raises(VolumeNotFound):
            attempt()
    with pytest.raises(VolumeNotFound):
        await store.usage(FIRST)


@pytest.mark.parametrize("name", ["", "..", "vol-", "vol-" + "0" * 24 + "/..", "../layers", "VOL-" + "0" * 24])
async def test_only_ids_are_places(store: VolumeStore, name: str) -> None:
    for attempt in (store.create(name, 1), store.remove(name), store.usage(name)):
        with pytest.raises(InvalidInput):
            await attempt


async def test_the_quota_of_a_volume_holds_and_the_others_go_on(store: VolumeStore, volume: Volume) -> None:
    await store.create(FIRST, 16)
    await store.create(SECOND, 64)
    with pytest.raises(StorageFull, match="volume is full"):
        await store.content(FIRST).write("/big", content(32 * MIB), Attributes())
    assert await store.content(FIRST).entries("/", 1) == []
    await store.content(FIRST).write("/small", content(4 * MIB), Attributes())
    await store.content(SECOND).write("/big", content(32 * MIB), Attributes())
    assert 4 * MIB <= await store.usage(FIRST) < 8 * MIB
    layer = volume.layer("i1", owner=1, disk_mb=16)
    (layer.upper / "file").write_bytes(b"x" * MIB)


async def test_a_flood_of_empty_files_meets_the_quota(store: VolumeStore, settings: Settings) -> None:
    await store.create(FIRST, 1)
    fd = VolumeLayout(settings).open_root(FIRST)
    with pytest.raises(OSError, match="quota"):
        flood(fd, "")
    os.close(fd)
    with pytest.raises(StorageFull):
        await store.content(FIRST).make_dir("/d", Attributes(), parents=False)
    await store.content(FIRST).remove(f"/{0:0200}")


async def test_a_tree_in_a_full_volume_is_removed(store: VolumeStore, settings: Settings) -> None:
    await store.create(FIRST, 1)
    fd = VolumeLayout(settings).open_root(FIRST)
    os.makedirs(f"/proc/self/fd/{fd}/tree/a/b")
    with pytest.raises(OSError, match="quota"):
        flood(fd, "tree/a/")
    os.close(fd)
    await store.content(FIRST).remove("/tree")
    assert await store.content(FIRST).entries("/", 1) == []
    await store.content(FIRST).write("/file", content(MIB // 2), Attributes())


async def test_volumes_survive_when_everything_else_goes(settings: Settings) -> None:
    first = Volume(settings)
    first.open()
    first.layer("i1", owner=1, disk_mb=16)
    store = opened(settings)
    await store.create(FIRST, 16)
    await store.content(FIRST).write("/kept", content(MIB), Attributes())
    first.remove("i1")
    first.discard()
    assert mounts.below(settings.state_dir) == []
    again = Volume(settings)
    again.open()
    store = opened(settings)
    assert [entry.size for entry in await store.content(FIRST).entries("/", 1)] == [MIB]
    with pytest.raises(StorageFull):
        await store.content(FIRST).write("/big", content(32 * MIB), Attributes())
    await store.remove(FIRST)
    again.discard()
    assert not (settings.state_dir / "volume.img").exists()


async def test_the_group_of_a_volume_goes_with_it(store: VolumeStore, volume: Volume, settings: Settings) -> None:
    before = groups(settings)
    await store.create(FIRST, 16)
    (made,) = groups(settings) - before
    await store.remove(FIRST)
    again = Volume(settings)
    deadline = time.monotonic() + 30
    while made in groups(settings):  # the kernel needs it for some commits more
        assert time.monotonic() < deadline
        with btrfs.directory(settings.volume_dir) as fd:
            fcntl.ioctl(fd, BTRFS_IOC_SYNC)
        again.open()


@pytest.fixture(autouse=True)
def _closed(settings: Settings) -> Iterator[None]:
    """Whatever a test leaves open is let go of."""
    yield
    if mounts.find(settings.volume_dir):
        Volume(settings).close()
