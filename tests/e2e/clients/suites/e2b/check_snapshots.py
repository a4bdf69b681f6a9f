"""Snapshots and forks."""

from __future__ import annotations

import pytest
from harness import Client, shows


@shows("Sandbox.create_snapshot Sandbox.delete_snapshot Sandbox.create")
async def check_a_snapshot(client: Client) -> None:
    async with client.sandbox(envs={"WHO": "agent"}) as source:
        await source.files.write("notes", "before")
        snapshot = await source.create_snapshot()
        await source.files.write("notes", "after")
        async with client.sandbox(snapshot.snapshot_id) as made:
            assert await made.files.read("notes") == "before"
            assert (await made.commands.run("echo $WHO")).stdout == "agent\n"
        assert await source.files.read("notes") == "after"
        again = await client.Sandbox.create_snapshot(source.sandbox_id)
    async with client.sandbox(again.snapshot_id) as made:
        assert await made.files.read("notes") == "after", "it outlives its source"
    for snapshot_id in (snapshot.snapshot_id, again.snapshot_id):
        assert await client.Sandbox.delete_snapshot(snapshot_id)
        assert not await client.Sandbox.delete_snapshot(snapshot_id)
    with pytest.raises(client.types.SandboxException):
        await client.Sandbox.create(snapshot.snapshot_id)


@shows(
    "Sandbox.list_snapshots SnapshotPaginator.has_next SnapshotPaginator.next_items SnapshotPaginator.next_token",
    since="2.45",
)
async def check_lists(client: Client, unique: str) -> None:
    async with client.sandbox() as sandbox:
        taken = [(await sandbox.create_snapshot(name=f"{unique}:v{number}")).snapshot_id for number in range(3)]
        paginator = await sandbox.list_snapshots(limit=2)
        pages = []
        while paginator.has_next:
            pages.append([item.snapshot_id for item in await paginator.next_items()])
        assert paginator.next_token is None
        assert [len(page) for page in pages] == [2, 1]
        assert sorted(item for page in pages for item in page) == sorted(taken)
        async with client.sandbox(f"{unique}:v1") as made:
            assert (await made.get_info()).template_id == taken[1]
        for snapshot_id in taken:
            await client.Sandbox.delete_snapshot(snapshot_id)


@shows("Sandbox.fork", since="2.63")
async def check_forks(client: Client) -> None:
    async with client.sandbox() as source:
        await source.files.write("state", "s")
        forks = await source.fork(count=3, timeout=60)
        for number, fork in enumerate(forks):
            await fork.files.write("state", str(number))
        assert [await fork.files.read("state") for fork in forks] == ["0", "1", "2"]
        assert await source.files.read("state") == "s"
        (another,) = await client.Sandbox.fork(source.sandbox_id)
        for fork in (*forks, another):
            await fork.kill()


@shows("Sandbox.pause Sandbox.connect", since="2.63")
async def check_a_pause_that_keeps_files_alone(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.files.write("kept", "x")
        running = await sandbox.commands.run("sleep 1000", background=True)
        assert await sandbox.pause(mode="filesystem")
        await sandbox.connect()
        assert await sandbox.files.read("kept") == "x"
        assert running.pid not in [process.pid for process in await sandbox.commands.list()]
