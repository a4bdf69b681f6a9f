"""The volume of writable layers on the real kernel."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cube.cubelet.storage import btrfs, mounts
from cube.cubelet.storage.volume import Volume, make_layer
from cube.model.errors import Conflict, HostError, InvalidInput, SandboxNotFound, SnapshotNotFound, StorageFull
from cube.settings import Settings
from integration.cubelet.storage.conftest import loop_devices

pytestmark = pytest.mark.root

MIB = 1 << 20
BTRFS_IOC_SYNC = 0x9408
OWNER = 0x2000_0000


def fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(b"x" * MIB)


def flood(directory: Path, count: int) -> None:
    for number in range(count):
        (directory / f"{number:0200}").touch()


def test_a_layer_belongs_to_the_root_of_its_sandbox(volume: Volume) -> None:
    layer = volume.layer("i1", owner=OWNER, disk_mb=64)
    found = layer.upper.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (OWNER, OWNER, 0o755)
    assert list(layer.upper.iterdir()) == list(layer.work.iterdir()) == []
    assert layer.upper.parent.stat().st_ino == btrfs.FIRST_SUBVOLUME


def test_other_users_of_the_host_cannot_reach_a_layer(volume: Volume, settings: Settings) -> None:
    assert settings.volume_dir.stat().st_mode & 0o077 == 0


def test_the_quota_holds_and_the_neighbour_keeps_writing(volume: Volume) -> None:
    greedy = volume.layer("greedy", owner=OWNER, disk_mb=32)
    modest = volume.layer("modest", owner=OWNER, disk_mb=32)
    with pytest.raises(OSError, match="quota") as caught:
        fill(greedy.upper / "big", 64 * MIB)
    assert caught.value.errno == errno.EDQUOT
    assert volume.usage("greedy") <= 32 * MIB
    fill(modest.upper / "fine", 8 * MIB)


def test_a_full_layer_can_be_cleared_and_used_again(volume: Volume) -> None:
    layer = volume.layer("i1", owner=OWNER, disk_mb=32)
    with pytest.raises(OSError, match="quota"):
        fill(layer.upper / "big", 64 * MIB)
    (layer.upper / "big").unlink()
    fill(layer.upper / "again", 16 * MIB)


def test_a_flood_of_empty_files_meets_the_quota_too(volume: Volume) -> None:
    layer = volume.layer("flood", owner=OWNER, disk_mb=1)
    with pytest.raises(OSError, match="quota"):
        flood(layer.upper, 100_000)
    (layer.upper / f"{0:0200}").unlink()


def test_overwriting_in_place_costs_nothing(volume: Volume) -> None:
    layer = volume.layer("i1", owner=OWNER, disk_mb=32)
    for _ in range(3):
        fd = os.open(layer.upper / "db", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, os.urandom(20 * MIB), 0)
        os.fsync(fd)
        os.close(fd)
    assert volume.usage("i1") < 21 * MIB


def test_usage_counts_what_has_not_reached_the_disk_yet(volume: Volume) -> None:
    layer = volume.layer("i1", owner=OWNER, disk_mb=64)
    assert volume.usage("i1") < MIB
    fill(layer.upper / "file", 8 * MIB)
    assert 8 * MIB <= volume.usage("i1") < 9 * MIB


def test_removal_takes_everything_and_can_be_repeated(volume: Volume) -> None:
    layer = volume.layer("i1", owner=OWNER, disk_mb=64)
    (layer.upper / "deep/er").mkdir(parents=True)
    volume.remove("i1")
    volume.remove("i1")
    assert volume.names() == set()
    assert not layer.upper.exists()
    with pytest.raises(SandboxNotFound):
        volume.usage("i1")


@pytest.mark.parametrize("elsewhere", [False, True], ids=["made here", "made by another process that told nothing"])
def test_a_removed_layer_leaves_no_quota_group(volume: Volume, settings: Settings, *, elsewhere: bool) -> None:
    if elsewhere:
        layer, _ = make_layer(volume.layers_directory, "i1", owner=OWNER, disk_mb=64)
    else:
        layer = volume.layer("i1", owner=OWNER, disk_mb=64)
    fill(layer.upper / "file", MIB)
    volume.remove("i1")
    assert volume._groups.all() != set()
    deadline = time.monotonic() + 20
    while volume._groups.buried and time.monotonic() < deadline:
        with btrfs.directory(settings.volume_dir) as fd:
            fcntl.ioctl(fd, BTRFS_IOC_SYNC)  # wakes the kernel's cleaner, which else comes every 30 s
        volume.sweep()
    assert volume._groups.all() == set()


def test_the_same_sandbox_twice_is_a_conflict_and_harms_nothing(volume: Volume) -> None:
    layer = volume.layer("i1", owner=OWNER, disk_mb=64)
    (layer.upper / "kept").write_text("x")
    with pytest.raises(Conflict):
        volume.layer("i1", owner=OWNER, disk_mb=64)
    assert (layer.upper / "kept").read_text() == "x"


@pytest.mark.parametrize("name", ["", "..", "a/b", "../../etc", "A", "x" * 41])
def test_a_name_that_is_no_id_is_refused(volume: Volume, name: str) -> None:
    for call in (lambda: volume.layer(name, owner=0, disk_mb=1), lambda: volume.remove(name)):
        with pytest.raises(InvalidInput):
            call()


def test_a_snapshot_keeps_what_was_and_cannot_be_written(volume: Volume) -> None:
    layer = volume.layer("i1", owner=OWNER, disk_mb=64)
    (layer.upper / "file").write_text("before")
    snapshot = volume.snapshot("i1", "snap-1")
    (layer.upper / "file").write_text("after")
    assert (snapshot / "upper/file").read_text() == "before"
    with pytest.raises(OSError, match="Read-only"):
        (snapshot / "upper/new").touch()
    volume.remove("i1")
    assert (snapshot / "upper/file").read_text() == "before"
    volume.remove_snapshot("snap-1")
    with pytest.raises(SnapshotNotFound):
        volume.remove_snapshot("snap-1")


def test_a_clone_begins_with_the_snapshot_and_belongs_to_nobody_else(volume: Volume) -> None:
    layer = volume.layer("i1", owner=OWNER, disk_mb=64)
    fill(layer.upper / "file", 8 * MIB)
    volume.snapshot("i1", "snap-1")
    clone = volume.clone("snap-1", "i2", disk_mb=16)
    assert volume.owner("i2") == volume.owner("i1") == OWNER
    (clone.upper / "file").write_text("changed")
    assert volume.clone("snap-1", "i3", disk_mb=16).upper.joinpath("file").stat().st_size == 8 * MIB
    assert (layer.upper / "file").stat().st_size == 8 * MIB
    volume.remove_snapshot("snap-1")
    volume.remove("i1")
    assert (clone.upper / "file").read_text() == "changed"
    with pytest.raises(SnapshotNotFound):
        volume.clone("snap-1", "i4", disk_mb=16)
    assert volume.names() == {"i2", "i3"}


def test_a_clone_has_a_quota_of_its_own(volume: Volume) -> None:
    volume.layer("i1", owner=OWNER, disk_mb=64)
    volume.snapshot("i1", "snap-1")
    clone = volume.clone("snap-1", "i2", disk_mb=16)
    with pytest.raises(OSError, match="quota"):
        fill(clone.upper / "big", 32 * MIB)
    with pytest.raises(Conflict):
        volume.clone("snap-1", "i2", disk_mb=16)


def test_a_layer_takes_the_place_of_another(volume: Volume) -> None:
    (volume.layer("old", owner=OWNER, disk_mb=64).upper / "file").write_text("old")
    (volume.layer("new", owner=OWNER, disk_mb=64).upper / "file").write_text("new")
    volume.rename("new", "old")
    assert volume.names() == {"old"}
    assert (volume.existing("old").upper / "file").read_text() == "new"
    assert volume.usage("old") > 0
    with pytest.raises(SandboxNotFound):
        volume.rename("new", "old")
    assert volume.names() == {"old"}


def test_scratch_space_is_made_anew(volume: Volume) -> None:
    layer = volume.layer("i1", owner=OWNER, disk_mb=64)
    (layer.work / "work/incompat/volatile").mkdir(parents=True)
    volume.clear_work("i1")
    assert list(layer.work.iterdir()) == []
    assert layer.work.stat().st_uid == OWNER
    layer.work.rmdir()
    volume.clear_work("i1")
    assert list(layer.work.iterdir()) == []


def test_a_volume_that_runs_full_says_so_in_time(volume: Volume) -> None:
    volume.require_room()
    layer = volume.layer("i1", owner=OWNER, disk_mb=4096)
    with pytest.raises(OSError, match="No space"):
        fill(layer.upper / "big", 2048 * MIB)
    with pytest.raises(StorageFull, match="no room"):
        eventually_raises(volume.require_room)
    (layer.upper / "big").unlink()


def eventually_raises(call: Callable[[], None]) -> None:
    """Call until it raises: what was seen a moment ago is taken for granted."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        call()
        time.sleep(0.05)


def test_layers_outlive_a_restart_of_the_service(volume: Volume, settings: Settings) -> None:
    layer = volume.layer("i1", owner=OWNER, disk_mb=32)
    (layer.upper / "file").write_text("kept")
    adopting = Volume(settings)
    adopting.open()
    assert adopting.names() == {"i1"}
    assert adopting.existing("i1") == layer
    with pytest.raises(OSError, match="quota"):
        fill(layer.upper / "big", 64 * MIB)
    assert len(loop_devices(settings.state_dir)) == 1


def test_layers_outlive_a_reboot(volume: Volume, settings: Settings) -> None:
    layer = volume.layer("i1", owner=OWNER, disk_mb=32)
    (layer.upper / "file").write_text("kept")
    volume.close()
    assert mounts.find(settings.volume_dir) is None
    volume.open()
    assert (volume.existing("i1").upper / "file").read_text() == "kept"
    with pytest.raises(OSError, match="quota"):
        fill(layer.upper / "big", 64 * MIB)


def test_a_volume_that_somebody_still_has_mounted_is_the_same_one(volume: Volume, settings: Settings) -> None:
    """In a mount namespace of their own, which an unmount does not reach."""
    layer = volume.layer("kept", owner=0, disk_mb=16)
    (layer.upper / "before").touch()
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo there; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"there\n"
        (layer.upper / "before").unlink()
        (layer.upper / "after").touch()
        volume.close()
        again = Volume(settings)
        again.open()
        assert os.listdir(again.existing("kept").upper) == ["after"]
        assert other.stdin is not None
        other.stdin.close()
    assert os.listdir(again.existing("kept").upper) == ["after"]
    again.close()


@pytest.mark.parametrize("mounted", [True, False])
def test_the_volume_grows_with_the_setting(volume: Volume, settings: Settings, mounted: bool) -> None:
    before = os.statvfs(settings.volume_dir).f_blocks
    if not mounted:
        volume.close()
    Volume(settings.model_copy(update={"volume_gb": 3})).open()
    after = os.statvfs(settings.volume_dir).f_blocks
    assert after == pytest.approx(3 * before, rel=0.05)


def test_without_a_size_it_takes_most_of_the_free_space(settings: Settings) -> None:
    volume = Volume(settings.model_copy(update={"volume_gb": 0}))
    free = os.statvfs(settings.state_dir)
    volume.open()
    image = settings.state_dir / "volume.img"
    assert image.stat().st_size == pytest.approx(0.8 * free.f_bavail * free.f_frsize, rel=0.1)
    assert image.stat().st_blocks * 512 < 64 * MIB
    volume.close()


def test_closing_with_an_open_file_says_so_and_can_be_repeated(volume: Volume) -> None:
    layer = volume.layer("i1", owner=OWNER, disk_mb=32)
    with (layer.upper / "file").open("w"), pytest.raises(Conflict, match="in use"):
        volume.close()
    volume.close()
    volume.close()


def test_a_foreign_file_system_in_its_place_is_refused(settings: Settings) -> None:
    settings.volume_dir.mkdir(parents=True)
    mounts.mount("none", settings.volume_dir, "tmpfs", 0)
    try:
        with pytest.raises(HostError, match="occupied"):
            Volume(settings).open()
    finally:
        mounts.umount(settings.volume_dir)


def test_an_interrupted_format_is_done_again(settings: Settings) -> None:
    settings.state_dir.joinpath("volume.new").write_bytes(b"half")
    volume = Volume(settings)
    volume.open()
    volume.layer("i1", owner=OWNER, disk_mb=32)
    volume.close()


def test_ordinary_quotas_where_the_kernel_has_no_simple_ones(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(btrfs, "QUOTA_CTL_ENABLE_SIMPLE_QUOTA", 99)
    volume = Volume(settings)
    volume.open()
    assert btrfs.enable_quotas(settings.volume_dir) == "ordinary"
    layer = volume.layer("i1", owner=OWNER, disk_mb=32)
    with pytest.raises(OSError, match="quota"):
        fill(layer.upper / "big", 64 * MIB)
    volume.close()


def test_many_threads_at_once(volume: Volume) -> None:
    def life(number: int) -> None:
        for turn in range(5):
            name = f"i{number}x{turn}"
            layer = volume.layer(name, owner=OWNER + number, disk_mb=8)
            (layer.upper / "file").write_bytes(b"x" * 4096)
            assert layer.upper.stat().st_uid == OWNER + number
            assert volume.usage(name) < 8 * MIB
            volume.remove(name)
            volume.sweep()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(life, range(50)))
    assert volume.names() == set()
