"""Snapshots, stopping, starting again and rollback of real containers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from cube.cubelet.runtime.base import Instance
from cube.cubelet.runtime.container.instance import ContainerInstance
from cube.cubelet.storage.images import ImageStore
from cube.model.errors import Conflict, HostError, SandboxNotFound, SandboxStopped, SnapshotNotFound, StorageFull
from cube.model.ids import new_snapshot_id
from cube.model.sandbox import Condition, SandboxSpec
from support.container_node import ContainerNode, container_node, sh
from support.images import MINIMAL_ID

pytestmark = pytest.mark.root

#: See :class:`support.service.Service`.
_PART = 6


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ContainerNode]:
    async with container_node(tmp_path, _PART) as running:
        yield running


#: Tells whether a sleep is among the processes.
SLEEPS = "grep -h sleep /proc/[0-9]*/comm 2>/dev/null || true"


async def resumed(
    node: ContainerNode, spec: SandboxSpec, instance: Instance | None = None, *, memory: bool = True
) -> ContainerInstance:
    return cast("ContainerInstance", await node.runtime.resume(spec, instance, memory=memory))


async def capture(node: ContainerNode, spec: SandboxSpec, instance: Instance | None = None) -> str:
    snapshot_id = new_snapshot_id()
    await node.runtime.snapshot(spec, instance, snapshot_id, memory=False)
    return snapshot_id


FILL = """
mkdir -p /data/deep /gone && cd /data
echo root > mine && echo user > theirs && chown user:user theirs && chmod 640 theirs
ln mine hard && ln -s mine soft && echo plain > deep/file && rm -r /home/user && mv /var/log /var/renamed
echo changed > /etc/passwd.new && cat /etc/passwd >> /etc/passwd.new && mv /etc/passwd.new /etc/passwd
"""
LOOK = """
cd /data; stat -c '%n %U %u %g %a %h' mine theirs deep/file; readlink soft; cat hard theirs deep/file
ls -d /home/user /var/log 2>/dev/null; ls -d /var/renamed; head -n 1 /etc/passwd
"""


async def test_a_sandbox_from_a_snapshot_has_the_files_and_owners_of_the_source(node: ContainerNode) -> None:
    source = node.spec()
    running = await node.runtime.create(source)
    await sh(running, FILL)
    snapshot_id = await capture(node, source, running)
    before = await sh(running, LOOK)
    await sh(running, "echo later > /data/mine; rm /data/theirs")

    spec = node.spec(snapshot_id)
    other = await node.runtime.create(spec)
    assert other.seat.id_base != running.seat.id_base
    assert await sh(other, LOOK) == before
    assert "user 1000 1000 640" in before
    # It can be written like any other, by both users, and nobody else notices.
    await sh(other, "echo more >> /data/hard; cat /data/mine; rm -r /data/deep; mkdir -p /home/user; touch /etc/x")
    await sh(other, "echo mine >> /data/theirs", user="user")
    third = await node.runtime.create(node.spec(snapshot_id))
    assert await sh(third, LOOK) == before


async def test_a_snapshot_of_a_sandbox_from_a_snapshot(node: ContainerNode) -> None:
    """Generations lie in different seats: each brings the ids of the first."""
    spec = node.spec()
    running = await node.runtime.create(spec)
    for generation in range(4):
        await sh(running, f"echo {generation} >> /list; echo {generation} > /g{generation}; chown user /g{generation}")
        spec = node.spec(await capture(node, spec, running))
        running = await node.runtime.create(spec)
    assert await sh(running, "cat /list; stat -c %u /list /g*") == "0\n1\n2\n3\n0\n" + "\n".join(["1000"] * 4)


async def test_each_has_an_identity_of_its_own(node: ContainerNode) -> None:
    source = node.spec()
    running = await node.runtime.create(source)
    look = "cat /etc/machine-id /etc/hostname /etc/hosts /etc/resolv.conf; hostname"
    spec = node.spec(await capture(node, source, running))
    other = await node.runtime.create(spec)
    machine, hostname, *hosts = (await sh(other, look)).splitlines()
    assert machine != (await sh(running, look)).splitlines()[0]
    assert hostname == hosts[-1] == spec.sandbox_id
    assert f"{other.address} {spec.sandbox_id}" in hosts
    assert not any(source.sandbox_id in line or running.address in line for line in hosts)


@pytest.mark.parametrize(
    "trap",
    [
        "rm -r /etc && ln -s /data /etc",
        "rm -r /etc && echo x > /etc",
        "rm -r /etc",
        "rm /etc/hosts; mkdir /etc/hosts; rm /etc/machine-id; ln -s /victim /etc/machine-id",
        "rm /etc/hosts; ln /victim /etc/hosts; mkfifo /etc/new; rm /etc/hostname; mkfifo /etc/hostname",
        "chown user / /etc; chmod 700 /etc",
    ],
)
async def test_what_a_sandbox_does_to_its_etc_harms_nobody_when_it_is_started_again(
    node: ContainerNode, trap: str
) -> None:
    source = node.spec()
    running = await node.runtime.create(source)
    await sh(running, f"mkdir /data; echo victim > /victim; {trap}")
    other = await node.runtime.create(node.spec(await capture(node, source, running)))
    assert await sh(other, "cat /victim; ls /data") == "victim"


async def test_the_source_runs_on(node: ContainerNode) -> None:
    source = node.spec()
    running = await node.runtime.create(source)
    await sh(running, "(while echo x; do :; done) > /dev/null 2>&1 & echo $! > /pid")
    await capture(node, source, running)
    await sh(running, "kill -0 $(cat /pid)")
    assert not running.frozen


async def test_what_was_written_before_is_in_it_to_the_last_byte(node: ContainerNode) -> None:
    """Nothing was flushed: 32 MiB lie in memory alone when the capture begins."""
    source = node.spec()
    running = await node.runtime.create(source)
    await sh(running, "head -c 32M /dev/urandom > /big; md5sum /big > /sum")
    other = await node.runtime.create(node.spec(await capture(node, source, running)))
    assert await sh(other, "md5sum -c /sum") == "/big: OK"


async def test_a_capture_is_of_one_moment(node: ContainerNode) -> None:
    """A writer keeps two files equal but for the line being written; no snapshot has them further apart."""
    source = node.spec()
    running = await node.runtime.create(source)
    await sh(running, "(i=0; while :; do i=$((i+1)); echo $i >> /a; echo $i >> /b; done) > /dev/null 2>&1 &")
    for _ in range(5):
        other = await node.runtime.create(node.spec(await capture(node, source, running)))
        first, second = (await sh(other, "wc -l < /a; wc -l < /b")).split()
        assert 0 <= int(first) - int(second) <= 1


async def test_a_paused_and_a_stopped_sandbox_can_be_captured(node: ContainerNode) -> None:
    spec = node.spec()
    running = await node.runtime.create(spec)
    await sh(running, "echo here > /file; sleep 1000 > /dev/null 2>&1 &")
    paused = await node.runtime.pause(running, memory=True)
    first = await capture(node, spec, paused)
    assert running.frozen
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await running.guest.ping()
    running = await resumed(node, spec, paused)
    await node.runtime.pause(running, memory=False)
    second = await capture(node, spec)
    for snapshot_id in (first, second):
        assert await sh(await node.runtime.create(node.spec(snapshot_id)), "cat /file") == "here"


async def test_snapshots_depend_on_nobody_and_nobody_on_them(node: ContainerNode) -> None:
    source = node.spec()
    running = await node.runtime.create(source)
    await sh(running, "echo one > /file")
    first = await capture(node, source, running)
    await node.runtime.destroy(source.sandbox_id)
    spec = node.spec(first)
    other = await node.runtime.create(spec)
    second = await capture(node, spec, other)
    assert await node.runtime.snapshots() == {first, second}
    await node.runtime.delete_snapshot(first)
    await node.runtime.delete_snapshot(first)
    assert await sh(other, "cat /file") == "one"
    assert await sh(await node.runtime.create(node.spec(second)), "cat /file") == "one"
    with pytest.raises(SnapshotNotFound):
        await node.runtime.create(node.spec(first))
    assert await node.runtime.snapshots() == {second}


async def test_a_template_is_kept_for_its_snapshots(node: ContainerNode) -> None:
    source = node.spec()
    snapshot_id = await capture(node, source, await node.runtime.create(source))
    await node.runtime.destroy(source.sandbox_id)
    images = ImageStore(node.settings)
    images.load()
    with pytest.raises(Conflict, match=snapshot_id):
        images.delete(MINIMAL_ID)
    await node.runtime.delete_snapshot(snapshot_id)
    images.delete(MINIMAL_ID)


async def test_a_stopped_sandbox_keeps_its_files_alone(node: ContainerNode) -> None:
    spec = node.spec()
    running = await node.runtime.create(spec)
    await sh(running, "echo kept > /file; chown user /file; sleep 1000 > /dev/null 2>&1 & echo gone > /dev/shm/file")
    machine = await sh(running, "cat /etc/machine-id")
    cgroup = running.seat.cgroup
    assert await node.runtime.pause(running, memory=False) is None
    assert cgroup.pids() == []
    again = await resumed(node, spec)
    assert await sh(again, f"cat /file; stat -c %U /file; ls /dev/shm; {SLEEPS}") == "kept\nuser"
    assert await sh(again, "cat /etc/machine-id; hostname") == f"{machine}\n{spec.sandbox_id}"
    # And once more, from the layer that it has brought.
    await sh(again, "echo more >> /file")
    await node.runtime.pause(again, memory=False)
    third = await resumed(node, spec, memory=False)
    assert await sh(third, "cat /file") == "kept\nmore"


async def test_a_paused_sandbox_can_be_started_from_its_files(node: ContainerNode) -> None:
    spec = node.spec()
    running = await node.runtime.create(spec)
    await sh(running, "echo kept > /file; sleep 1000 > /dev/null 2>&1 &")
    paused = await node.runtime.pause(running, memory=True)
    again = await resumed(node, spec, paused, memory=False)
    assert again is not paused
    assert await sh(again, f"cat /file; {SLEEPS}") == "kept"


async def test_a_stopped_sandbox_keeps_its_template(node: ContainerNode) -> None:
    spec = node.spec()
    await node.runtime.pause(await node.runtime.create(spec), memory=False)
    images = ImageStore(node.settings)
    images.load()
    with pytest.raises(Conflict, match=spec.sandbox_id):
        images.delete(MINIMAL_ID)
    await node.runtime.destroy(spec.sandbox_id)
    images.delete(MINIMAL_ID)


async def test_a_rollback_brings_back_the_files(node: ContainerNode) -> None:
    spec = node.spec()
    running = await node.runtime.create(spec)
    await sh(running, "echo before > /file")
    snapshot_id = await capture(node, spec, running)
    for turn in range(3):  # the first from the seat's own layer, the others from one that was brought
        await sh(running, f"rm /file; echo {turn} > /new; sleep 1000 > /dev/null 2>&1 &")
        await node.runtime.rollback(spec, running, snapshot_id)
        running = await resumed(node, spec)
        assert await sh(running, f"cat /file; ls /new 2>/dev/null; {SLEEPS}") == "before"
    await node.runtime.destroy(spec.sandbox_id)
    assert await node.runtime.leftovers() == set()


async def test_a_rollback_of_a_sandbox_from_a_snapshot_leaves_nothing_of_its_first_layer(node: ContainerNode) -> None:
    source = node.spec()
    running = await node.runtime.create(source)
    await sh(running, "echo before > /file")
    snapshot_id = await capture(node, source, running)
    spec = node.spec(snapshot_id)
    made = await node.runtime.create(spec)
    former = made.layer
    await node.runtime.rollback(spec, made, snapshot_id)
    assert await sh(await resumed(node, spec), "cat /file") == "before"
    assert former not in node.runtime._volume.names()


async def test_a_rollback_to_what_is_not_there_changes_nothing(node: ContainerNode) -> None:
    spec = node.spec()
    running = await node.runtime.create(spec)
    await sh(running, "echo now > /file; sleep 1000 > /dev/null 2>&1 & echo $! > /pid")
    with pytest.raises(SnapshotNotFound):
        await node.runtime.rollback(spec, running, new_snapshot_id())
    assert await sh(running, "cat /file; kill -0 $(cat /pid)") == "now"


async def test_a_start_that_fails_leaves_a_stopped_sandbox_that_can_be_started(node: ContainerNode) -> None:
    spec = node.spec()
    running = await node.runtime.create(spec)
    await sh(running, "echo kept > /file")
    await node.runtime.pause(running, memory=False)
    with pytest.MonkeyPatch.context() as patch:

        async def refuse(*_: object, **__: object) -> object:
            raise HostError("not today")

        patch.setattr(node.runtime._launcher, "resume", refuse)
        with pytest.raises(SandboxStopped, match="not today"):
            await resumed(node, spec)
    assert await sh(await resumed(node, spec), "cat /file") == "kept"


async def test_after_a_restart_everything_is_found_in_its_condition(node: ContainerNode) -> None:
    specs = {name: node.spec() for name in ("running", "paused", "stopped", "again")}
    for name, spec in specs.items():
        instance = await node.runtime.create(spec)
        await sh(instance, f"echo {name} > /file")
        if name == "paused":
            await node.runtime.pause(instance, memory=True)
        elif name != "running":
            await node.runtime.pause(instance, memory=False)
    await resumed(node, specs["again"])
    snapshot_id = await capture(node, specs["stopped"])
    await node.restart()
    wanted = {
        "running": Condition.RUNNING,
        "paused": Condition.PAUSED,
        "stopped": Condition.STOPPED,
        "again": Condition.RUNNING,
    }
    for name, spec in specs.items():
        found = await node.runtime.adopt(spec, wanted[name])
        assert found.condition is wanted[name], name
        instance = found.instance
        if wanted[name] is not Condition.RUNNING:
            instance = await resumed(node, spec, instance)
        assert await sh(instance, "cat /file") == name
    assert await node.runtime.snapshots() == {snapshot_id}
    for spec in specs.values():
        await node.runtime.destroy(spec.sandbox_id)
    assert await node.runtime.leftovers() == set()
    assert await sh(await node.runtime.create(node.spec(snapshot_id)), "cat /file") == "stopped"


async def test_a_stopped_sandbox_outlives_the_loss_of_the_run_directory(node: ContainerNode) -> None:
    """As when the machine is started anew: only the disk is left."""
    spec = node.spec()
    running = await node.runtime.create(spec)
    await sh(running, "echo kept > /file")
    await node.runtime.pause(running, memory=False)
    assert not list((node.settings.run_dir / "sandboxes").iterdir())
    await node.restart()
    assert (await node.runtime.adopt(spec, Condition.STOPPED)).condition is Condition.STOPPED
    assert await sh(await resumed(node, spec), "cat /file") == "kept"


async def test_what_is_captured_and_stopped_leaves_no_trace_when_it_is_gone(node: ContainerNode) -> None:
    spec = node.spec()
    running = await node.runtime.create(spec)
    snapshot_id = await capture(node, spec, running)
    await node.runtime.rollback(spec, running, snapshot_id)
    await resumed(node, spec)
    other = node.spec(snapshot_id)
    await node.runtime.create(other)
    for sandbox in (spec, other):
        await node.runtime.destroy(sandbox.sandbox_id)
    await node.runtime.delete_snapshot(snapshot_id)
    await node.runtime.close()
    volume = node.settings.volume_dir
    assert os.listdir(volume / "layers") == os.listdir(volume / "snapshots") == []
    assert list((node.settings.state_dir / "claims").glob("*/*")) == []
    await node.start()


async def test_a_node_without_room_refuses_instead_of_filling_up(
    node: ContainerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = node.spec()
    running = await node.runtime.create(spec)
    monkeypatch.setattr(node.runtime._volume, "room", lambda: 1 << 20)
    monkeypatch.setattr(node.runtime._volume, "_room_seen_at", 0.0)
    for refused in (
        node.runtime.create(node.spec()),
        node.runtime.snapshot(spec, running, new_snapshot_id(), memory=False),
        node.runtime.rollback(spec, running, new_snapshot_id()),
    ):
        with pytest.raises(StorageFull, match="no room"):
            await refused
    assert await sh(running, "echo still here") == "still here"
    assert await node.runtime.snapshots() == set()


async def test_a_cancelled_create_from_a_snapshot_leaves_nothing(node: ContainerNode) -> None:
    spec = node.spec()
    snapshot_id = await capture(node, spec, await node.runtime.create(spec))
    before = node.runtime._volume.names()
    for delay in (0.0, 0.001, 0.003, 0.006):
        attempt = asyncio.create_task(node.runtime.create(node.spec(snapshot_id)))
        await asyncio.sleep(delay)  # a different point each time; whichever it is, nothing stays
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        if not attempt.cancelled():
            await node.runtime.destroy(attempt.result().sandbox_id)
    names = {name for name in node.runtime._volume.names() if "brought" in name}
    assert names == set() <= before
    with pytest.raises(SandboxNotFound):
        await node.runtime.adopt(node.spec(), Condition.STOPPED)


@pytest.mark.parametrize("capture_first", [False, True])
async def test_what_could_not_be_kept_for_want_of_room_is_kept_later(
    node: ContainerNode, monkeypatch: pytest.MonkeyPatch, *, capture_first: bool
) -> None:
    """The stop is finished before the sandbox is started again or captured."""
    spec = node.spec()
    running = await node.runtime.create(spec)
    await sh(running, "echo kept > /kept")

    def no_room(self: object, old: str, new: str) -> None:
        raise StorageFull("no room")

    with monkeypatch.context() as full:
        full.setattr("cube.cubelet.storage.volume.Volume.rename", no_room)
        with pytest.raises(SandboxStopped) as stopped:
            await node.runtime.pause(running, memory=False)
        assert stopped.value.code == StorageFull.code
        with pytest.raises(SandboxStopped):
            await node.runtime.resume(spec, None, memory=True)
    if capture_first:
        other = await node.runtime.create(node.spec(await capture(node, spec)))
        assert await sh(other, "cat /kept") == "kept"
    again = await resumed(node, spec)
    assert await sh(again, "cat /kept") == "kept"
