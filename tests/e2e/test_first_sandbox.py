"""The unmodified ``e2b-code-interpreter`` client against a whole service: the story that a newcomer sees."""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Iterator

import pytest
from e2b import CommandExitException, NotFoundException, PtySize
from e2b.sandbox.filesystem.watch_handle import FilesystemEventType
from e2b_code_interpreter import Sandbox

from support.service import Service

pytestmark = pytest.mark.root

_PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def sandbox(service: Service) -> Iterator[Sandbox]:
    with Sandbox.create(**service.client) as sandbox:
        yield sandbox


def test_code_runs(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("print(6*7)")
    assert execution.error is None
    assert execution.logs.stdout == ["42\n"]


def test_state_is_kept_between_executions(sandbox: Sandbox) -> None:
    sandbox.run_code("answer = 41")
    assert sandbox.run_code("answer + 1").text == "42"


def test_a_figure_arrives_as_png(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()")
    assert execution.error is None
    (result,) = execution.results
    image = base64.b64decode(result.png)
    assert image.startswith(_PNG)
    width, height = struct.unpack_from(">II", image, 16)
    assert width > 100
    assert height > 100


def test_an_error_arrives_with_its_traceback(sandbox: Sandbox) -> None:
    error = sandbox.run_code("def f():\n    return 1 / 0\nf()").error
    assert error is not None
    assert error.name == "ZeroDivisionError"
    assert "return 1 / 0" in error.traceback


def test_a_shell_command(sandbox: Sandbox) -> None:
    done = sandbox.commands.run("echo out; echo err >&2; id -un; pwd")
    assert done.stdout == "out\nuser\n/home/user\n"
    assert done.stderr == "err\n"
    assert done.exit_code == 0


def test_root_without_a_password(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("sudo id -un").stdout == "root\n"


def test_a_command_in_the_background_with_stdin_and_signal(sandbox: Sandbox) -> None:
    command = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.send_stdin(command.pid, "hello\n")
    events = iter(command)
    assert next(events)[0] == "hello\n"
    assert command.pid in [process.pid for process in sandbox.commands.list()]
    assert command.kill()
    with pytest.raises(CommandExitException):
        command.wait()
    assert command.pid not in [process.pid for process in sandbox.commands.list()]


def test_files(sandbox: Sandbox) -> None:
    sandbox.files.write("notes/a.txt", "first")
    sandbox.files.write("notes/b.bin", bytes(range(256)))
    assert sandbox.files.read("notes/a.txt") == "first"
    assert bytes(sandbox.files.read("notes/b.bin", format="bytes")) == bytes(range(256))
    assert [entry.name for entry in sandbox.files.list("notes")] == ["a.txt", "b.bin"]
    assert sandbox.files.get_info("notes/a.txt").owner == "user"
    sandbox.files.rename("notes/a.txt", "notes/c.txt")
    assert not sandbox.files.exists("notes/a.txt")
    sandbox.files.remove("notes")
    assert not sandbox.files.exists("notes")
    with pytest.raises(NotFoundException):
        sandbox.files.read("notes/c.txt")


def test_watching_sees_an_upload_as_three_events(sandbox: Sandbox) -> None:
    sandbox.files.make_dir("watched")
    watch = sandbox.files.watch_dir("watched")
    sandbox.files.write("watched/new.txt", "x")
    events = [(event.name, event.type) for event in watch.get_new_events()]
    assert events == [
        ("new.txt", FilesystemEventType.CREATE),
        ("new.txt", FilesystemEventType.CHMOD),
        ("new.txt", FilesystemEventType.WRITE),
    ]
    watch.stop()


def test_a_terminal(sandbox: Sandbox) -> None:
    terminal = sandbox.pty.create(PtySize(cols=80, rows=24))
    sandbox.pty.resize(terminal.pid, PtySize(cols=100, rows=30))
    sandbox.pty.send_stdin(terminal.pid, b"stty size; echo $((6*7)); exit\n")
    output = b"".join(data for _, _, data in terminal if data)
    assert b"30 100" in output
    assert b"\r\n42\r\n" in output


def test_reconnecting_by_id(service: Service, sandbox: Sandbox) -> None:
    sandbox.run_code("kept = 'still here'")
    again = Sandbox.connect(sandbox.sandbox_id, **service.client)
    assert again.run_code("kept").text == "still here"


def test_pause_and_resume(service: Service) -> None:
    sandbox = Sandbox.create(**service.client)
    try:
        sandbox.files.write("state.txt", "before")
        counting = sandbox.commands.run(
            "i=0; while true; do echo $((i=i+1)) > /tmp/n; sleep 0.01; done", background=True
        )
        sandbox.pause()
        assert not sandbox.is_running()
        sandbox = sandbox.connect()
        assert sandbox.is_running()
        assert sandbox.files.read("state.txt") == "before"
        before = int(sandbox.files.read("/tmp/n") or 0)
        deadline = time.monotonic() + 10
        while int(sandbox.files.read("/tmp/n") or 0) <= before:
            assert time.monotonic() < deadline, "the process does not go on"
        assert sandbox.commands.kill(counting.pid)
    finally:
        assert sandbox.kill()
    assert not sandbox.is_running()


def test_killing_twice(service: Service) -> None:
    sandbox = Sandbox.create("base", **service.client)
    assert sandbox.kill()
    assert not sandbox.kill()


def test_environment_variables(service: Service) -> None:
    with Sandbox.create(envs={"WHO": "agent"}, **service.client) as sandbox:
        assert sandbox.commands.run("echo $WHO").stdout == "agent\n"
        assert sandbox.commands.run("echo $WHO $MORE", envs={"MORE": "x"}).stdout == "agent x\n"
        assert sandbox.run_code("import os; os.environ['WHO']").text == "agent"


def test_listing_and_metadata(service: Service) -> None:
    with Sandbox.create("base", metadata={"task": "a b/c"}, **service.client) as sandbox:
        info = sandbox.get_info()
        assert info.sandbox_id == sandbox.sandbox_id
        assert info.metadata == {"task": "a b/c"}
        listed = Sandbox.list(**service.client).next_items()
        assert sandbox.sandbox_id in [item.sandbox_id for item in listed]
