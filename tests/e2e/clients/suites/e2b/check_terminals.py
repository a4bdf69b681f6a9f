"""Terminals."""

from __future__ import annotations

from typing import Any

from harness import Client, shows, stream


@shows("Sandbox.pty", "Pty.create", "Pty.send_stdin", "Pty.resize", "CommandHandle.wait")
async def check_a_terminal(client: Client) -> None:
    async with client.sandbox() as sandbox:
        output = _Output()
        terminal = await _create(client, sandbox, output, envs={"MARK": "here"}, cwd="/tmp", user="root")
        await sandbox.pty.resize(terminal.pid, client.types.PtySize(rows=33, cols=101))
        await sandbox.pty.send_stdin(terminal.pid, b"stty size; echo $MARK-$TERM; pwd; id -un; exit 0\n")
        await _wait(client, terminal, output)
        for words in (b"33 101", b"here-xterm-256color", b"/tmp", b"root"):
            assert words in output.data, output.data


@shows("Pty.connect", "Pty.kill", "Pty.create", "CommandHandle.disconnect")
async def check_coming_back_to_a_terminal(client: Client) -> None:
    async with client.sandbox() as sandbox:
        terminal = await _create(client, sandbox, _Output())
        await terminal.disconnect()
        output = _Output()
        named = {} if client.blocking else {"on_data": output}
        again = await sandbox.pty.connect(terminal.pid, **named)
        await sandbox.pty.send_stdin(again.pid, b"echo $((6*7)); exit\n")
        await _wait(client, again, output)
        assert b"42\r\n" in output.data
        assert not await sandbox.pty.kill(again.pid)
        third = await _create(client, sandbox, _Output())
        assert await sandbox.pty.kill(third.pid)


@shows("Pty.stream_input", since="2.63")
async def check_streamed_input(client: Client) -> None:
    async with client.sandbox() as sandbox:
        output = _Output()
        terminal = await _create(client, sandbox, output)
        await stream(client, sandbox.pty, terminal.pid, [b"echo $((6*", b"7))\n", b"exit\n"])
        await _wait(client, terminal, output)
        assert b"42\r\n" in output.data


class _Output:
    """What a terminal showed."""

    def __init__(self) -> None:
        self.data = b""

    def __call__(self, data: bytes) -> None:
        self.data += data


async def _create(client: Client, sandbox: Any, output: _Output, **wishes: Any) -> Any:
    """The asynchronous client says where output goes when it creates a terminal, the blocking one when it waits."""
    named = {} if client.blocking else {"on_data": output}
    return await sandbox.pty.create(client.types.PtySize(rows=24, cols=80), **named, **wishes)


async def _wait(client: Client, terminal: Any, output: _Output) -> None:
    await (terminal.wait(on_pty=output) if client.blocking else terminal.wait())
