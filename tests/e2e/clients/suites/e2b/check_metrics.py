"""Metrics."""

from __future__ import annotations

from datetime import timedelta

from harness import Client, eventually, shows


@shows("Sandbox.get_metrics")
async def check_metrics(client: Client) -> None:
    async with client.sandbox() as sandbox:

        async def some() -> bool:
            return bool(await sandbox.get_metrics())

        await eventually(some)
        metric = (await sandbox.get_metrics())[0]
        assert metric.cpu_count > 0
        assert 0 <= metric.cpu_used_pct <= 100 * metric.cpu_count
        assert 0 < metric.mem_used < metric.mem_total
        assert 0 <= metric.disk_used < metric.disk_total


@shows("Sandbox.get_metrics")
async def check_the_range_is_honoured(client: Client) -> None:
    async with client.sandbox() as sandbox:

        async def some() -> bool:
            return bool(await client.Sandbox.get_metrics(sandbox.sandbox_id))

        await eventually(some)
        taken = (await sandbox.get_metrics())[0].timestamp
        hour = timedelta(hours=1)
        assert await sandbox.get_metrics(start=taken - hour, end=taken + hour)
        assert not await sandbox.get_metrics(start=taken - 2 * hour, end=taken - hour)
        assert not await sandbox.get_metrics(start=taken + hour, end=taken + 2 * hour)
