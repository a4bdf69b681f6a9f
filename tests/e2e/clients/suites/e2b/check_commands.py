"""Commands."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness import Client, eventually, shows, stream


@shows("Commands.run")
async def check_output_and_exit_code(client: Client) -> None:
    async with client.sandbox() as sandbox:
        done = await sandbox.commands.run("echo out; echo err >&2; id -un; pwd")
        assert (done.stdout, done.stderr, done.exit_code) == ("out\nuser\n/home/user\n", "err\n", 0)
        assert not done.error
        with pytest.raises(client.types.CommandExitException) as caught:
            await sandbox.commands.run("echo bad; exit 7")
        assert (caught.value.exit_code, caught.value.stdout) == (7, "bad\n")


@shows("Commands.run")
async def check_user_directory_and_environment(client: Client) -> None:
    async with client.sandbox() as sandbox:
        done = await sandbox.commands.run("id -un; pwd; echo $A", user="root", cwd="/tmp", envs={"A": "1"})
        assert done.stdout == "root\n/tmp\n1\n"
        with pytest.raises(client.types.InvalidArgumentException, match="does not exist"):
            await sandbox.commands.run("true", cwd="/nowhere")
        with pytest.raises(client.types.AuthenticationException, match="nobody-here"):
            await sandbox.commands.run("true", user="nobody-here")


@shows("Commands.run", "CommandHandle.wait")
async def check_output_arrives_in_pieces(client: Client) -> None:
    async with client.sandbox() as sandbox:
        out: list[str] = []
        err: list[str] = []
        done = await sandbox.commands.run("echo a; echo b >&2", on_stdout=out.append, on_stderr=err.append)
        assert ("".join(out), "".join(err), done.exit_code) == ("a\n", "b\n", 0)
        handle = await sandbox.commands.run("echo later", background=True)
        assert (await handle.wait()).stdout == "later\n"


@shows("Commands.run")
async def check_large_output_is_whole(client: Client) -> None:
    async with client.sandbox() as sandbox:
        done = await sandbox.commands.run("seq 200000; printf 'ü%.0s' $(seq 20000)")
        assert done.stdout == "".join(f"{n}\n" for n in range(1, 200001)) + "ü" * 20000


@shows("Commands.run", "Commands.list", "Commands.kill", "CommandHandle.kill", "CommandHandle.pid")
async def check_background_list_and_kill(client: Client) -> None:
    async with client.sandbox() as sandbox:
        first = await sandbox.commands.run("sleep 1000", background=True, envs={"MARK": "x"}, cwd="/tmp")
        second = await sandbox.commands.run("sleep 1000", background=True)
        (listed,) = [process for process in await sandbox.commands.list() if process.pid == first.pid]
        assert (listed.cmd, listed.args) == ("/bin/bash", ["-l", "-c", "sleep 1000"])
        assert (listed.envs["MARK"], listed.cwd) == ("x", "/tmp")
        assert await sandbox.commands.kill(first.pid)
        await eventually(lambda: _not_killed(sandbox, first.pid))
        assert await second.kill()
        await eventually(lambda: _nothing_runs(sandbox))
        with pytest.raises(client.types.CommandExitException):
            await second.wait()


@shows("Commands.send_stdin", "Commands.run", "CommandHandle.wait")
async def check_stdin(client: Client) -> None:
    async with client.sandbox() as sandbox:
        handle = await sandbox.commands.run("read line; echo got $line", background=True, stdin=True)
        await sandbox.commands.send_stdin(handle.pid, "hello\n")
        assert (await handle.wait()).stdout == "got hello\n"


@shows("Commands.close_stdin CommandHandle.send_stdin CommandHandle.close_stdin CommandHandle.wait", since="2.45")
async def check_end_of_stdin(client: Client) -> None:
    async with client.sandbox() as sandbox:
        handle = await sandbox.commands.run("cat; echo end", background=True, stdin=True)
        await handle.send_stdin("one ")
        await handle.send_stdin(b"two ")
        await handle.close_stdin()
        assert (await handle.wait()).stdout == "one two end\n"
        handle = await sandbox.commands.run("cat; echo end", background=True, stdin=True)
        await sandbox.commands.close_stdin(handle.pid)
        assert (await handle.wait()).stdout == "end\n"


@shows("Commands.stream_input", since="2.63")
async def check_streamed_input(client: Client) -> None:
    async with client.sandbox() as sandbox:
        handle = await sandbox.commands.run("wc -c", background=True, stdin=True)
        await stream(client, sandbox.commands, handle.pid, [b"x" * 100_000, "y" * 50])
        await sandbox.commands.close_stdin(handle.pid)
        assert (await handle.wait()).stdout.strip() == "100050"


@shows("CommandInputHandle.send CommandInputHandle.close", since="2.63", only="asynchronous")
async def check_a_handle_for_input(client: Client) -> None:
    async with client.sandbox() as sandbox:
        handle = await sandbox.commands.run("cat", background=True, stdin=True)
        async with await sandbox.commands.stream_input(handle.pid) as stdin:
            await stdin.send("one ")
            await stdin.send(b"two")
            await stdin.close()
        await handle.close_stdin()
        assert (await handle.wait()).stdout == "one two"


@shows(
    "CommandHandle.stdout CommandHandle.stderr CommandHandle.exit_code CommandHandle.error",
    only="asynchronous",
)
async def check_what_a_handle_knows(client: Client) -> None:
    async with client.sandbox() as sandbox:
        handle = await sandbox.commands.run("echo out; echo err >&2", background=True)
        await handle.wait()
        assert (handle.stdout, handle.stderr, handle.exit_code) == ("out\n", "err\n", 0)
        assert not handle.error


@shows("Commands.connect", "CommandHandle.disconnect")
async def check_connect_and_disconnect(client: Client) -> None:
    async with client.sandbox() as sandbox:
        handle = await sandbox.commands.run("read a; echo $a; read b; echo $b", background=True, stdin=True)
        await handle.disconnect()
        again = await sandbox.commands.connect(handle.pid)
        await sandbox.commands.send_stdin(again.pid, "1\n2\n")
        assert (await again.wait()).stdout == "1\n2\n"
        with pytest.raises(client.types.NotFoundException):
            await sandbox.commands.connect(999_999)


@shows("Commands.run")
async def check_a_timeout_kills(client: Client) -> None:
    async with client.sandbox() as sandbox:
        with pytest.raises(client.types.TimeoutException):
            await sandbox.commands.run("sleep 1000", timeout=0.5)
        await eventually(lambda: _nothing_runs(sandbox))


@shows("Commands.run", "CommandHandle.wait", "Sandbox.kill")
async def check_a_command_whose_sandbox_is_killed(client: Client) -> None:
    async with client.sandbox() as sandbox:
        handle = await sandbox.commands.run("sleep 1000", background=True)
        waiting = asyncio.create_task(handle.wait())
        await sandbox.kill()
        with pytest.raises(client.types.TimeoutException):
            await waiting


@shows("Commands.run")
async def check_root_without_a_password(client: Client) -> None:
    async with client.sandbox() as sandbox:
        assert (await sandbox.commands.run("sudo id -un")).stdout == "root\n"


async def _not_killed(sandbox: Any, pid: int) -> bool:
    return not await sandbox.commands.kill(pid)


async def _nothing_runs(sandbox: Any) -> bool:
    return await sandbox.commands.list() == []
