from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cube.master.volumes.service import WantedMount
from cube.model.errors import Conflict, HostError, InvalidInput, LimitExceeded, Unauthenticated, VolumeNotFound
from cube.model.mounts import VolumeMount
from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import Master, eventually, settle


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
async def master(tmp_path: Path, node: FakeNode) -> AsyncIterator[Master]:
    master = Master(tmp_path, node, FakeClock())
    await master.start()
    yield master
    await master.stop()


async def restarted(master: Master) -> Master:
    await master.stop()
    await master.start()
    return master


def mounted(name: str) -> dict[str, object]:
    return {"volume_mounts": (WantedMount(name, "/mnt"),)}


async def test_a_volume_outlives_a_restart(master: Master, node: FakeNode) -> None:
    made = await master.service.volumes.create("data")
    token = master.service.volumes.token(made)
    await restarted(master)
    volumes = master.service.volumes
    assert volumes.all() == [volumes.get(made.volume_id)] == [made]
    assert volumes.token(made) == token
    assert node.volumes.present == {made.volume_id: 10240}


async def test_names_are_taken_once(master: Master) -> None:
    volumes = master.service.volumes
    outcomes = await asyncio.gather(*(volumes.create("data") for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(Conflict) == 2
    for name in ("", "a b", "ä", "a/b", "..", "x" * 129):
        with pytest.raises(InvalidInput, match="name must be"):
            await volumes.create(name)


async def test_no_more_than_the_limit(master: Master) -> None:
    master.service.volumes._most = 1
    await master.service.volumes.create("a")
    with pytest.raises(LimitExceeded):
        await master.service.volumes.create("b")


async def test_a_volume_that_could_not_be_made_is_not_there(master: Master, node: FakeNode) -> None:
    node.volumes.failures["create"] = [HostError("no")]
    with pytest.raises(HostError):
        await master.service.volumes.create("data")
    await eventually(lambda: [call[0] for call in node.volumes.calls] == ["create", "remove"])
    await settle()
    await eventually(lambda: not master.service.volumes._volumes)
    assert (await master.service.volumes.create("data")).name == "data"


async def test_a_creation_that_was_cut_off_is_undone_by_the_next_start(master: Master, node: FakeNode) -> None:
    node.volumes.gates["create"] = asyncio.Event()
    creation = asyncio.create_task(master.service.volumes.create("data"))
    await eventually(lambda: bool(node.volumes.calls))
    await master.store.close()  # as a crash: nothing is written any more
    creation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creation
    node.volumes.present[node.volumes.calls[0][1]] = 1
    node.volumes.calls.clear()
    await master.service.close()
    await master.start()
    await eventually(lambda: not node.volumes.present)
    assert master.service.volumes.all() == []
    await eventually(lambda: not master.service.volumes._volumes)


async def test_deletion(master: Master, node: FakeNode) -> None:
    volumes = master.service.volumes
    made = await volumes.create("data")
    node.volumes.gates["remove"] = asyncio.Event()
    first = asyncio.create_task(volumes.delete(made.volume_id))
    await eventually(lambda: ("remove", made.volume_id) in node.volumes.calls)
    for attempt in (lambda: volumes.get(made.volume_id), lambda: volumes.content(made.volume_id, volumes.token(made))):
        with pytest.raises(VolumeNotFound):
            attempt()
    with pytest.raises(VolumeNotFound):
        await volumes.delete(made.volume_id)
    with pytest.raises(InvalidInput, match="was not found"):
        await master.create(**mounted("data"))
    with pytest.raises(Conflict, match="exists"):
        await volumes.create("data")
    node.volumes.gates["remove"].set()
    await first
    assert node.volumes.present == {}
    await volumes.create("data")


async def test_a_deletion_that_was_cut_off_is_finished_by_the_next_start(master: Master, node: FakeNode) -> None:
    made = await master.service.volumes.create("data")
    node.volumes.failures["remove"] = [HostError("no")]
    with pytest.raises(HostError):
        await master.service.volumes.delete(made.volume_id)
    assert node.volumes.present
    await restarted(master)
    await eventually(lambda: not node.volumes.present)
    assert master.service.volumes.all() == []


async def test_what_is_not_recorded_is_left_alone(master: Master, node: FakeNode) -> None:
    made = await master.service.volumes.create("data")
    node.volumes.present["vol-unknown"] = 1
    await restarted(master)
    await settle()
    assert node.volumes.present.keys() == {made.volume_id, "vol-unknown"}


async def test_a_volume_in_use_is_not_deleted(master: Master, node: FakeNode) -> None:
    volumes = master.service.volumes
    made = await volumes.create("data")
    first, second = await master.create(**mounted("data")), await master.create(**mounted(made.volume_id))
    assert first.volume_mounts == second.volume_mounts == (VolumeMount(made.volume_id, "data", "/mnt"),)
    assert node.specs[first.sandbox_id].volume_mounts == first.volume_mounts
    await master.service.pause(first.sandbox_id)
    with pytest.raises(Conflict) as caught:
        await volumes.delete(made.volume_id)
    assert first.sandbox_id in caught.value.message
    assert second.sandbox_id in caught.value.message
    await restarted(master)
    volumes = master.service.volumes
    await master.service.delete(first.sandbox_id)
    with pytest.raises(Conflict):
        await volumes.delete(made.volume_id)
    await master.service.delete(second.sandbox_id)
    await volumes.delete(made.volume_id)


async def test_a_volume_is_in_use_until_the_sandbox_is_gone_from_the_node(master: Master, node: FakeNode) -> None:
    made = await master.service.volumes.create("data")
    sandbox = await master.create(**mounted("data"))
    gate = node.close_gate("destroy")
    ending = asyncio.create_task(master.service.delete(sandbox.sandbox_id))
    await node.called("destroy")
    with pytest.raises(Conflict):
        await master.service.volumes.delete(made.volume_id)
    gate.set()
    await ending
    await master.service.volumes.delete(made.volume_id)


async def test_unknown_volumes_are_named(master: Master) -> None:
    await master.service.volumes.create("data")
    with pytest.raises(InvalidInput, match=r"volumeMounts\[1\].name: volume 'none' was not found") as caught:
        await master.create(volume_mounts=(WantedMount("data", "/a"), WantedMount("none", "/b")))
    assert caught.value.field == "volumeMounts[1].name"
    assert master.service.count() == 0


async def test_each_token_opens_its_own_volume(master: Master) -> None:
    volumes = master.service.volumes
    first, second = await volumes.create("a"), await volumes.create("b")
    assert volumes.token(first) != volumes.token(second)
    volumes.content(first.volume_id, volumes.token(first))
    for token in ("", "x", volumes.token(second), volumes.token(first)[:-1], "ä\ud800"):
        with pytest.raises(Unauthenticated):
            volumes.content(first.volume_id, token)
    with pytest.raises(Unauthenticated):
        volumes.content("vol-unknown", volumes.token(first))
