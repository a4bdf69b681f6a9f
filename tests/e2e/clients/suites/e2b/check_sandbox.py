"""The life of a sandbox."""

from __future__ import annotations

import asyncio

import pytest
from harness import Client, eventually, shows

UNKNOWN = "i0000000000000000000"


@shows("Sandbox.create", "Sandbox.kill", "Sandbox.is_running", "Sandbox.sandbox_id", "Sandbox.commands", "Commands.run")
async def check_create_and_kill(client: Client) -> None:
    sandbox = await client.Sandbox.create("base")
    assert (await sandbox.commands.run("echo hi")).stdout == "hi\n"
    assert await sandbox.is_running()
    assert await sandbox.kill()
    assert not await sandbox.is_running()
    assert not await client.Sandbox.kill(sandbox.sandbox_id)


@shows("Sandbox.create", "Sandbox.default_template", "Sandbox.get_info")
async def check_the_default_template(client: Client) -> None:
    async with await client.Sandbox.create() as sandbox:
        assert (await sandbox.get_info()).name == client.Sandbox.default_template
    assert not await sandbox.is_running()


@shows("Sandbox.connect", "Sandbox.files")
async def check_connect(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.files.write("mark", "here")
        again = await client.Sandbox.connect(sandbox.sandbox_id)
        assert await again.files.read("mark") == "here"
        same = await again.connect()
        assert same.sandbox_id == sandbox.sandbox_id


@shows("Sandbox.pause", "Sandbox.connect", "Sandbox.get_info")
async def check_pause_and_connect(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.files.write("mark", "here")
        running = await sandbox.commands.run("sleep 1000", background=True)
        await sandbox.pause()
        assert (await sandbox.get_info()).state.value == "paused"
        assert not await sandbox.is_running()
        await sandbox.connect()
        assert (await sandbox.get_info()).state.value == "running"
        assert await sandbox.files.read("mark") == "here"
        assert running.pid in [process.pid for process in await sandbox.commands.list()]


@shows("Sandbox.pause", "Sandbox.connect", "Sandbox.kill", since="2.45")
async def check_pause_and_kill_by_id(client: Client) -> None:
    async with client.sandbox() as sandbox:
        assert await client.Sandbox.pause(sandbox.sandbox_id)
        assert not await client.Sandbox.pause(sandbox.sandbox_id), "it is paused already"
        await client.Sandbox.connect(sandbox.sandbox_id, timeout=60)
        assert await sandbox.is_running()
        await sandbox.pause()
        assert await client.Sandbox.kill(sandbox.sandbox_id), "paused ones can be killed"


@shows("Sandbox.beta_pause")
async def check_the_older_name_of_pause(client: Client) -> None:
    async with client.sandbox() as sandbox:
        await sandbox.beta_pause()
        assert not await sandbox.is_running()


@shows("Sandbox.set_timeout", "Sandbox.get_info")
async def check_timeout(client: Client) -> None:
    async with client.sandbox(timeout=100) as sandbox:
        info = await sandbox.get_info()
        assert 95 < (info.end_at - info.started_at).total_seconds() < 105
        await sandbox.set_timeout(1000)
        info = await client.Sandbox.get_info(sandbox.sandbox_id)
        assert 900 < (info.end_at - info.started_at).total_seconds() < 1100
        await client.Sandbox.set_timeout(sandbox.sandbox_id, 0)
        await eventually(lambda: _gone(sandbox))


@shows("Sandbox.connect")
async def check_connect_extends_and_never_shortens(client: Client) -> None:
    async with client.sandbox(timeout=500) as sandbox:
        before = (await sandbox.get_info()).end_at
        await sandbox.connect(timeout=10)
        assert (await sandbox.get_info()).end_at == before
        await sandbox.connect(timeout=2000)
        assert (await sandbox.get_info()).end_at > before


@shows("Sandbox.create")
async def check_a_sandbox_is_killed_when_its_time_is_up(client: Client) -> None:
    async with client.sandbox(timeout=1) as sandbox:
        await eventually(lambda: _gone(sandbox))
        with pytest.raises(client.types.NotFoundException):
            await sandbox.get_info()


@shows("Sandbox.create", since="2.45")
async def check_a_sandbox_is_paused_when_its_time_is_up_and_woken_by_traffic(client: Client) -> None:
    lifecycle = {"on_timeout": "pause", "auto_resume": True}
    async with client.sandbox(timeout=1, lifecycle=lifecycle) as sandbox:

        async def paused() -> bool:
            return bool((await sandbox.get_info()).state.value == "paused")

        await eventually(paused)
        assert (await sandbox.commands.run("echo awake")).stdout == "awake\n"
        assert (await sandbox.get_info()).state.value == "running"


@shows("Sandbox.create", since="2.45")
async def check_a_sandbox_without_automatic_resume_stays_paused(client: Client) -> None:
    async with client.sandbox(timeout=1, lifecycle={"on_timeout": "pause"}) as sandbox:
        await eventually(lambda: _gone(sandbox))
        info = await sandbox.get_info()
        assert info.state.value == "paused"
        assert info.lifecycle == {"on_timeout": "pause", "auto_resume": False}
        with pytest.raises(client.types.TimeoutException):
            await sandbox.commands.run("true")


@shows("Sandbox.get_info")
async def check_info(client: Client) -> None:
    metadata = {"a b": "c/ä", "x": ""}
    async with client.sandbox(metadata=metadata) as sandbox:
        info = await sandbox.get_info()
        assert info.sandbox_id == sandbox.sandbox_id
        assert info.metadata == metadata
        assert info.name == "base"
        assert (info.cpu_count, info.memory_mb) > (0, 0)
        assert info.started_at < info.end_at
        assert info.envd_version >= "0.6"
        assert info.template_id.startswith("tpl-")


@shows("Sandbox.create")
async def check_environment_variables(client: Client) -> None:
    async with client.sandbox(envs={"WHO": "agent"}) as sandbox:
        assert (await sandbox.commands.run("echo $WHO")).stdout == "agent\n"
        assert (await sandbox.commands.run("echo $WHO", envs={"WHO": "other"})).stdout == "other\n"


@shows("Sandbox.create")
async def check_secure_or_not_a_sandbox_works(client: Client) -> None:
    for secure in (True, False):
        async with client.sandbox(secure=secure) as sandbox:
            assert (await sandbox.commands.run("echo $((6*7))")).stdout == "42\n"


@shows("Sandbox.create", since="2.63")
async def check_a_repeated_create_with_the_same_key(client: Client, unique: str) -> None:
    async with client.sandbox(idempotency_key=unique) as sandbox, client.sandbox(idempotency_key=unique) as same:
        assert same.sandbox_id == sandbox.sandbox_id


@shows(
    "E2B.Sandbox E2B.Volume E2B.Secret E2B.Template E2B.AsyncSandbox E2B.AsyncVolume E2B.AsyncSecret E2B.AsyncTemplate",
    since="2.45",
    only="blocking",
)
async def check_a_bound_client(client: Client, connection: dict[str, str], unique: str) -> None:
    bound = client.face(client.types.E2B(**connection))
    async with await bound.Sandbox.create("base") as sandbox:
        assert (await sandbox.commands.run("echo bound")).stdout == "bound\n"
    assert unique not in [volume.name for volume in await bound.Volume.list()]
    assert not await bound.Secret.exists(unique)
    assert await bound.Template.exists("base")
    async with await client.face(bound.AsyncSandbox.bare, blocking=False).create("base") as sandbox:
        assert (await sandbox.commands.run("echo bound")).stdout == "bound\n"
    assert unique not in [volume.name for volume in await client.face(bound.AsyncVolume.bare, blocking=False).list()]
    assert not await client.face(bound.AsyncSecret.bare, blocking=False).exists(unique)
    assert await client.face(bound.AsyncTemplate.bare, blocking=False).exists("base")


@shows("Sandbox.create")
async def check_many_at_once(client: Client) -> None:
    async def one(number: int) -> None:
        async with client.sandbox() as sandbox:
            assert (await sandbox.commands.run(f"echo {number}")).stdout == f"{number}\n"

    await asyncio.gather(*map(one, range(10)))


@shows("Sandbox.kill", "Sandbox.set_timeout", "Sandbox.get_info", "Sandbox.connect", "Sandbox.get_metrics")
async def check_nobody(client: Client) -> None:
    assert not await client.Sandbox.kill(UNKNOWN)
    with pytest.raises(client.types.NotFoundException):
        await client.Sandbox.set_timeout(UNKNOWN, 10)
    with pytest.raises(client.types.NotFoundException):
        await client.Sandbox.get_info(UNKNOWN)
    with pytest.raises(client.types.NotFoundException):
        await client.Sandbox.connect(UNKNOWN)
    with pytest.raises(client.types.SandboxException):
        await client.Sandbox.get_metrics(UNKNOWN)


async def _gone(sandbox: object) -> bool:
    return not await sandbox.is_running()  # type: ignore[attr-defined]
