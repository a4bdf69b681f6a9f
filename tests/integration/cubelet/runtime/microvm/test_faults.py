"""What goes wrong with machines: it is noticed, said in words, and leaves the sandbox as good as can be."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.cubelet.cgroups.events import poll_until
from cube.cubelet.runtime.microvm import capture
from cube.cubelet.runtime.microvm.capture import DEVICES, DISK, MEMORY, Manifest
from cube.cubelet.runtime.microvm.guest import GuestNotConfirmed, MicroVMGuest
from cube.cubelet.runtime.microvm.instance import MicroVMInstance
from cube.cubelet.runtime.microvm.layers import Layers
from cube.cubelet.runtime.microvm.vmm import VmmEnded
from cube.model.errors import SnapshotDamaged, SnapshotNotFound, SnapshotUnfit, StorageFull, TemplateNotFound
from cube.model.ids import new_snapshot_id
from support.vm_node import VmNode, run, vm_node

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[VmNode]:
    async with vm_node(tmp_path) as made:
        yield made


async def test_a_qemu_that_is_killed_is_noticed(node: VmNode) -> None:
    box = await node.create()
    os.kill(box.running.vmm.pid, signal.SIGKILL)
    await asyncio.wait_for(box.died(), 30)
    await node.runtime.destroy(box.sandbox_id)


async def test_a_guest_whose_processor_resets_is_noticed(node: VmNode) -> None:
    """What a panic of the guest's kernel ends in."""
    box = await node.create()
    with contextlib.suppress(VmmEnded):
        await box.running.vmm.execute("system_reset")
    await asyncio.wait_for(box.running.vmm.ended.wait(), 60)
    await asyncio.wait_for(box.died(), 30)
    await node.runtime.destroy(box.sandbox_id)


async def test_a_full_disk_is_the_guests_matter(node: VmNode) -> None:
    box = await node.create()
    assert "No space left" in await run(
        box, "fallocate -l 200M /root/a; dd if=/dev/zero of=/root/b bs=1M; rm /root/a /root/b"
    )
    assert await run(box, "echo ok > /root/f; cat /root/f") == "ok"


async def test_a_guest_that_eats_its_memory_goes_on(node: VmNode) -> None:
    """The guest's kernel ends what has eaten it."""
    box = await node.create()
    eaters = "for n in 1 2 3; do (dd if=/dev/zero bs=120M count=1 | sleep 20) & done; wait"
    assert "Killed" in await run(box, eaters)
    assert await run(box, "echo still here") == "still here"


@pytest.mark.parametrize("name", [MEMORY, DEVICES])
@pytest.mark.parametrize("how", ["cut off", "changed"])
async def test_a_damaged_pause_is_refused_and_the_files_are_safe(node: VmNode, name: str, how: str) -> None:
    box = await node.create()
    await run(box, "echo kept > /root/f")
    await node.runtime.pause(box, memory=True)
    _damage(node.layer(box) / name, how)
    with pytest.raises(SnapshotDamaged, match=name):
        await node.runtime.resume(box.spec, box, memory=True)
    assert capture.read(node.layer(box)) is not None
    assert box.started is None
    again = await node.runtime.resume(box.spec, box, memory=False)
    assert isinstance(again, MicroVMInstance)
    assert await run(again, "cat /root/f") == "kept"


def _command(*arguments: str | Path) -> None:
    subprocess.run(arguments, check=True)


def _damage(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
        return
    if how == "cut off":
        os.truncate(path, path.stat().st_size - 1)
        return
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 3)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


@pytest.mark.parametrize(("what", "named"), [("emulator", "QEMU"), ("processor", "processor")])
async def test_memory_of_another_qemu_or_processor_is_refused_with_both_named(
    node: VmNode, what: str, named: str
) -> None:
    box = await node.create()
    await node.runtime.pause(box, memory=True)
    layer = node.layer(box)
    found = capture.read(layer)
    assert isinstance(found, Manifest)
    assert found.fit is not None
    fit = dataclasses.replace(found.fit, **{what: "6.2.0 (Other)"})
    capture.write(layer, dataclasses.replace(found, fit=fit))
    here = getattr(found.fit, what)
    with pytest.raises(SnapshotUnfit, match=rf"{named} 6\.2\.0 \(Other\)") as refused:
        await node.runtime.resume(box.spec, box, memory=True)
    assert f"this node has {here}" in refused.value.message
    assert box.started is None
    capture.write(layer, found)
    await node.runtime.resume(box.spec, box, memory=True)


async def test_a_damaged_snapshot_starts_nothing(node: VmNode) -> None:
    box = await node.create()
    await run(box, "echo kept > /root/f")
    snapshot = new_snapshot_id()
    await node.runtime.snapshot(box.spec, box, snapshot, memory=True)
    directory = node.settings.volume_dir / "snapshots" / snapshot
    _command("btrfs", "property", "set", directory, "ro", "false")
    for name, how in itertools.product((MEMORY, DEVICES, DISK), ("cut off", "changed", "gone")):
        if (name, how) == (DISK, "changed"):
            continue  # its content is the file system's to check
        whole = directory / "whole"
        _command("cp", "--reflink=always", directory / name, whole)
        _damage(directory / name, how)
        spec = node.spec(snapshot)
        with pytest.raises(SnapshotDamaged, match=name):
            await node.runtime.create(spec)
        assert spec.sandbox_id not in await node.runtime.leftovers()
        whole.replace(directory / name)
    (directory / capture.MANIFEST).write_text('{"format": 1, "capture": {"template_id"')
    with pytest.raises(SnapshotDamaged, match="manifest"):
        await node.runtime.create(node.spec(snapshot))
    assert await run(box, "cat /root/f") == "kept"


async def test_a_snapshot_that_is_not_there_starts_nothing(node: VmNode) -> None:
    spec = node.spec(new_snapshot_id())
    with pytest.raises(SnapshotNotFound):
        await node.runtime.create(spec)
    assert spec.sandbox_id not in await node.runtime.leftovers()


async def test_without_room_it_runs_on(node: VmNode, monkeypatch: pytest.MonkeyPatch) -> None:
    box = await node.create()
    with monkeypatch.context() as patch:

        def full(self: Layers, size: int) -> None:
            raise StorageFull("the node has no room")

        patch.setattr(Layers, "require_room", full)
        with pytest.raises(StorageFull):
            await node.runtime.pause(box, memory=True)
        with pytest.raises(StorageFull):
            await node.runtime.snapshot(box.spec, box, new_snapshot_id(), memory=True)
    assert await run(box, "echo goes on") == "goes on"
    assert {path.name for path in node.layer(box).iterdir()} == {"disk"}
    assert await node.runtime.snapshots() == set()
    await node.runtime.pause(box, memory=True)
    await node.runtime.resume(box.spec, box, memory=True)


async def test_a_volume_that_fills_up_while_it_is_paused(node: VmNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a pause end where the room does: they are removed, and it runs on."""
    box = await node.create()
    await run(box, "dd if=/dev/urandom of=/dev/shm/f bs=65536 count=512")
    filler = node.settings.volume_dir / "filler"
    with monkeypatch.context() as patch, filler.open("wb") as file:
        patch.setattr(Layers, "require_room", lambda self, size: None)  # it was there a moment ago
        _fill(file.fileno())
        with pytest.raises(StorageFull):
            await node.runtime.pause(box, memory=True)
    filler.unlink()
    assert await run(box, "wc -c < /dev/shm/f") == str(32 << 20)
    assert {path.name for path in node.layer(box).iterdir()} == {"disk"}
    # What a removed file has taken is given back with the next commit.
    await asyncio.to_thread(_command, "btrfs", "filesystem", "sync", filler.parent)
    assert await poll_until(lambda: shutil.disk_usage(filler.parent).free > 256 << 20, 60)
    await node.runtime.pause(box, memory=True)
    await node.runtime.resume(box.spec, box, memory=True)
    assert await run(box, "wc -c < /dev/shm/f") == str(32 << 20)


def _fill(file: int) -> None:
    """Take all the room that the file system has."""
    position = 0
    for size in (64 << 20, 1 << 20, 4096):
        with contextlib.suppress(OSError):
            while True:
                os.posix_fallocate(file, position, size)
                position += size


async def test_a_template_that_is_gone(node: VmNode) -> None:
    await node.create()
    gone = dataclasses.replace(node.template, template_id="tpl-" + "f" * 24)
    spec = dataclasses.replace(node.spec(), template=gone)
    with pytest.raises(TemplateNotFound):
        await node.runtime.create(spec)
    assert spec.sandbox_id not in await node.runtime.leftovers()


async def test_a_guest_that_does_not_confirm_is_destroyed(node: VmNode, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.create()

    async def silent(self: MicroVMGuest, identity: object) -> None:
        raise GuestNotConfirmed("it says nothing")

    spec = node.spec()
    monkeypatch.setattr(MicroVMGuest, "identify", silent)
    with pytest.raises(GuestNotConfirmed):
        await node.runtime.create(spec)
    assert spec.sandbox_id not in await node.runtime.leftovers()


async def test_many_at_once_are_all_started(node: VmNode) -> None:
    made = await asyncio.gather(*(node.create() for _ in range(50)))
    assert len({one.address for one in made}) == 50
    assert [await run(one, "hostname") for one in made] == [one.sandbox_id for one in made]
