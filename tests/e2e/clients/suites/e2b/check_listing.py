"""Lists of sandboxes."""

from __future__ import annotations

from typing import Any

from harness import Client, shows


async def _all(paginator: Any) -> list[Any]:
    found: list[Any] = []
    while paginator.has_next:
        found += await paginator.next_items()
    return found


@shows("Sandbox.list", "SandboxPaginator.has_next", "SandboxPaginator.next_items", "SandboxPaginator.next_token")
async def check_pages(client: Client, unique: str) -> None:
    metadata = {"of": unique}
    async with client.sandbox(metadata=metadata) as first, client.sandbox(metadata=metadata) as second:
        query = client.types.SandboxQuery(metadata=metadata)
        paginator = await client.Sandbox.list(query=query, limit=1)
        (newest,) = await paginator.next_items()
        assert newest.sandbox_id == second.sandbox_id, "newest first"
        assert paginator.has_next
        again = await client.Sandbox.list(query=query, limit=1, next_token=paginator.next_token)
        assert [item.sandbox_id for item in await again.next_items()] == [first.sandbox_id]
        assert not again.has_next
        assert again.next_token is None


@shows("Sandbox.list")
async def check_filters(client: Client, unique: str) -> None:
    states = client.types.SandboxState
    metadata = {"a b&=%": unique, "ü/?": "x y"}
    async with client.sandbox(metadata=metadata) as paused, client.sandbox(metadata=metadata) as running:
        await paused.pause()

        async def ids(**query: Any) -> list[str]:
            wanted = client.types.SandboxQuery(**{"metadata": metadata, **query})
            return [item.sandbox_id for item in await _all(await client.Sandbox.list(query=wanted))]

        assert await ids() == [running.sandbox_id, paused.sandbox_id]
        assert await ids(state=[states.PAUSED]) == [paused.sandbox_id]
        assert await ids(state=[states.RUNNING]) == [running.sandbox_id]
        assert await ids(state=[states.RUNNING, states.PAUSED]) == [running.sandbox_id, paused.sandbox_id]
        assert await ids(metadata={**metadata, "more": "x"}) == []


@shows("Sandbox.list", since="2.63")
async def check_newer_filters(client: Client, unique: str) -> None:
    metadata = {"of": unique}
    base = await client.Sandbox.create("base", metadata=metadata)
    async with base, client.sandbox("code-interpreter-v1", metadata=metadata) as other:

        async def ids(order: str | None = None, **query: Any) -> list[str]:
            wanted = client.types.SandboxQuery(**{"metadata": metadata, **query})
            return [item.sandbox_id for item in await _all(await client.Sandbox.list(query=wanted, order=order))]

        assert await ids(order="asc") == [base.sandbox_id, other.sandbox_id]
        assert await ids(order="desc") == [other.sandbox_id, base.sandbox_id]
        assert await ids(template="base") == [base.sandbox_id]
        started = (await other.get_info()).started_at
        assert await ids(started_after=started) == [other.sandbox_id]


@shows("Sandbox.list")
async def check_what_is_listed(client: Client, unique: str) -> None:
    async with client.sandbox(metadata={"of": unique}) as sandbox:
        query = client.types.SandboxQuery(metadata={"of": unique})
        (listed,) = await _all(await client.Sandbox.list(query=query))
        info = await sandbox.get_info()
        for name in ("sandbox_id", "template_id", "name", "metadata", "started_at", "state", "cpu_count", "memory_mb"):
            assert getattr(listed, name) == getattr(info, name), name
