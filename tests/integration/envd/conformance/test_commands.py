"""Commands, as the client's users write them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from e2b import (
    AsyncSandbox,
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    Sandbox,
    SandboxException,
    TimeoutException,
)
from packaging.version import Version

from cube.envd.version import ENVD_VERSION
from support.envd_server import EnvdServer


def test_the_version_is_understood(client: Sandbox) -> None:
    assert client._envd_version == Version(ENVD_VERSION)
    assert client.is_running()


def test_output_and_exit_code(client: Sandbox) -> None:
    result = client.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code, result.error) == ("out\n", "err\n", 0, None)


def test_failure(client: Sandbox) -> None:
    with pytest.raises(CommandExitException) as caught:
        client.commands.run("echo why >&2; exit 3")
    assert (caught.value.exit_code, caught.value.stderr, caught.value.error) == (3, "why\n", "exit status 3")


def test_a_signal(client: Sandbox) -> None:
    with pytest.raises(CommandExitException) as caught:
        client.commands.run("kill -SEGV $$")
    assert (caught.value.exit_code, caught.value.error) == (-1, "signal: segmentation fault")


def test_characters_are_not_torn_apart(client: Sandbox) -> None:
    text = "ä€😀" * 30_000
    client.files.write("text", text)
    assert client.commands.run("cat text").stdout == text


def test_environment_and_directory(client: Sandbox, home: str) -> None:
    result = client.commands.run("pwd; echo $A $HOME; umask", cwd="/usr", envs={"A": "one two"})
    assert result.stdout == f"/usr\none two {home}\n0022\n"


def test_a_directory_that_does_not_exist(client: Sandbox) -> None:
    with pytest.raises(InvalidArgumentException, match="cwd '/nowhere' does not exist"):
        client.commands.run("true", cwd="/nowhere")


def test_an_unknown_user(client: Sandbox) -> None:
    with pytest.raises(AuthenticationException, match="invalid username: 'stranger'"):
        client.commands.run("true", user="stranger")


def test_root(client: Sandbox) -> None:
    assert client.commands.run("id -u", user="root").stdout == "0\n"


def test_the_default_user_needs_no_name(client: Sandbox) -> None:
    assert client.commands.run("echo $USER $LOGNAME").stdout == "user user\n"


def test_time_limit(client: Sandbox) -> None:
    with pytest.raises(TimeoutException):
        client.commands.run("sleep 60", timeout=0.3)


def test_callbacks(client: Sandbox) -> None:
    pieces: list[str] = []
    client.commands.run("for i in 1 2 3; do echo $i; done", on_stdout=pieces.append)
    assert "".join(pieces) == "1\n2\n3\n"


def test_pids_are_those_of_the_inside(client: Sandbox) -> None:
    handle = client.commands.run("sleep 60", background=True)
    assert client.commands.run(f"kill -0 {handle.pid} && echo alive").stdout == "alive\n"
    assert handle.kill()


def test_list_and_kill(client: Sandbox) -> None:
    handle = client.commands.run("sleep 60", background=True, envs={"A": "b"}, cwd="/")
    (info,) = client.commands.list()
    assert (info.pid, info.cmd, info.args) == (handle.pid, "/bin/bash", ["-l", "-c", "sleep 60"])
    assert (info.envs, info.cwd) == ({"A": "b"}, "/")
    assert client.commands.kill(handle.pid)
    with pytest.raises(CommandExitException) as caught:
        handle.wait()
    assert caught.value.error == "signal: killed"
    assert not client.commands.kill(handle.pid)


def test_a_process_that_was_killed_has_ended(client: Sandbox) -> None:
    for _ in range(10):
        handle = client.commands.run("sleep 60", background=True)
        assert client.commands.kill(handle.pid)
        assert not client.commands.kill(handle.pid)


def test_connect(client: Sandbox) -> None:
    handle = client.commands.run("read line; echo got $line", background=True, stdin=True)
    handle.disconnect()
    again = client.commands.connect(handle.pid)
    client.commands.send_stdin(handle.pid, "this\n")
    assert again.wait().stdout == "got this\n"


def test_connect_to_nothing(client: Sandbox) -> None:
    with pytest.raises(NotFoundException):
        client.commands.connect(4_000_000)


def test_stdin(client: Sandbox) -> None:
    handle = client.commands.run("cat", background=True, stdin=True)
    client.commands.send_stdin(handle.pid, "text ")
    client.commands.send_stdin(handle.pid, b"bytes")
    client.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "text bytes"


def test_stdin_is_off_by_default(client: Sandbox) -> None:
    assert client.commands.run("cat").stdout == ""
    handle = client.commands.run("sleep 60", background=True)
    with pytest.raises(SandboxException, match="without stdin"):
        client.commands.send_stdin(handle.pid, "x")


def test_stream_input(client: Sandbox) -> None:
    handle = client.commands.run("cat", background=True, stdin=True)
    client.commands.stream_input(handle.pid, (f"{number}\n" for number in range(100)))
    client.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "".join(f"{number}\n" for number in range(100))


def test_a_server_in_the_background_lives_on(client: Sandbox) -> None:
    script = "(mkfifo door; read line < door; echo log line; echo $line > answer) & echo started"
    assert client.commands.run(script).stdout == "started\n"
    client.commands.run("while [ ! -e door ]; do sleep 0.01; done; echo hello > door")
    assert client.commands.run("while [ ! -s answer ]; do sleep 0.01; done; cat answer").stdout == "hello\n"


def test_many_at_a_time(client: Sandbox) -> None:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda number=number: results.append(client.commands.run(f"echo {number}").stdout))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(f"{number}\n" for number in range(20))


def test_a_paused_sandbox(client: Sandbox, server: EnvdServer) -> None:
    server.sandboxes.paused.add("i1")
    try:
        assert not client.is_running()
        with pytest.raises(TimeoutException):
            client.commands.run("true")
    finally:
        server.sandboxes.paused.clear()


class TestAsync:
    async def test_output(self, async_client: AsyncSandbox) -> None:
        result = await async_client.commands.run("echo out; echo err >&2; exit 0")
        assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)

    async def test_background(self, async_client: AsyncSandbox) -> None:
        handle = await async_client.commands.run("cat; exit 7", background=True, stdin=True)
        await async_client.commands.send_stdin(handle.pid, "x")
        await async_client.commands.close_stdin(handle.pid)
        with pytest.raises(CommandExitException) as caught:
            await handle.wait()
        assert (caught.value.stdout, caught.value.exit_code) == ("x", 7)

    async def test_stream_input(self, async_client: AsyncSandbox) -> None:
        handle = await async_client.commands.run("cat", background=True, stdin=True)
        async with async_client.commands.stream_input(handle.pid) as stream:
            for piece in ("a", b"b", "c"):
                await stream.send(piece)
        await async_client.commands.close_stdin(handle.pid)
        assert (await handle.wait()).stdout == "abc"

    async def test_disconnect_and_connect(self, async_client: AsyncSandbox) -> None:
        handle = await async_client.commands.run("read line; echo $line", background=True, stdin=True)
        await handle.disconnect()
        again = await async_client.commands.connect(handle.pid)
        await async_client.commands.send_stdin(handle.pid, "x\n")
        assert (await again.wait()).stdout == "x\n"


class TestTerminal:
    def session(self, client: Sandbox, **more: Any) -> tuple[Any, Callable[[str], None]]:
        from e2b import PtySize

        handle = client.pty.create(PtySize(rows=24, cols=80), **more)
        return handle, lambda text: client.pty.send_stdin(handle.pid, text.encode())

    def test_a_shell(self, client: Sandbox) -> None:
        handle, send = self.session(client, envs={"A": "set"})
        send("echo $A $TERM; tty; stty size; exit\n")
        output = b""
        for _, _, data in handle:
            output += data or b""
        assert b"set xterm-256color" in output
        assert b"/dev/pts/" in output
        assert b"24 80" in output

    def test_resize(self, client: Sandbox) -> None:
        from e2b import PtySize

        handle, send = self.session(client)
        client.pty.resize(handle.pid, PtySize(rows=40, cols=120))
        send("stty size; exit\n")
        assert b"40 120" in b"".join(data or b"" for _, _, data in handle)

    def test_control_characters(self, client: Sandbox) -> None:
        handle, send = self.session(client)
        send("sh -c 'trap \"echo inter''rupted; exit\" INT; echo rea''dy; while :; do sleep 0.1; done'\n")
        output = b""
        for _, _, data in handle:
            if b"ready" not in output and b"ready" in output + (data or b""):
                send("\x03")
                send("exit 5\n")
            output += data or b""
        assert b"interrupted" in output
        with pytest.raises(CommandExitException) as caught:
            handle.wait()
        assert caught.value.exit_code == 5

    def test_kill_and_connect(self, client: Sandbox) -> None:
        handle, send = self.session(client)
        handle.disconnect()
        again = client.pty.connect(handle.pid)
        send("echo again\n")
        for _, _, data in again:
            if data and b"again" in data:
                break
        assert client.pty.kill(handle.pid)
        assert not client.pty.kill(4_000_000)
