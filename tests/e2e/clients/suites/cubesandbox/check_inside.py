"""What happens inside of a sandbox, as CubeSandbox's own client drives it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cubesandbox import FilesystemNotFoundError, PtySize, Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.create() as sandbox:
        yield sandbox


def check_code(sandbox: Sandbox) -> None:
    sandbox.run_code("x = 41")
    assert sandbox.run_code("x + 1").text == "42"
    done = sandbox.run_code("import os, sys\nprint('o')\nprint('e', file=sys.stderr)\n1 / 0", envs={"A": "1"})
    assert ("".join(done.logs.stdout), "".join(done.logs.stderr)) == ("o\n", "e\n")
    assert done.error is not None
    assert done.error.name == "ZeroDivisionError"
    assert sandbox.run_code("echo $((6*7))", language="bash").logs.stdout[0].startswith("42")
    lines: list[str] = []
    sandbox.run_code("print('called')", on_stdout=lambda message: lines.append(message.text))
    assert "".join(lines) == "called\n"


def check_commands(sandbox: Sandbox) -> None:
    done = sandbox.commands.run("id -un; pwd; echo bad >&2; exit 3", user="user", cwd="/tmp")
    assert (done.stdout, done.stderr, done.exit_code) == ("user\n/tmp\n", "bad\n", 3)
    assert sandbox.commands.run("id -un").stdout == "root\n"
    assert sandbox.commands.run("echo $A", env={"A": "1"}, timeout=0).stdout == "1\n"
    with pytest.raises(RuntimeError, match="deadline"):
        sandbox.commands.run("sleep 1000; true", timeout=0.5)


def check_files(sandbox: Sandbox) -> None:
    files = sandbox.files
    files.write("/tmp/a", "text ä")
    assert files.read("/tmp/a") == "text ä"
    assert files.write_files([("/tmp/d/b", b"b"), ("/tmp/d/c", "c")]) == 2
    assert [entry["name"] for entry in files.list("/tmp/d")] == ["b", "c"]
    assert files.stat("/tmp/a")["size"] == "7"
    files.make_dir("/tmp/new")
    files.rename("/tmp/new", "/tmp/newer")
    assert files.exists("/tmp/newer")
    files.remove("/tmp/newer")
    assert not files.exists("/tmp/newer")
    with pytest.raises(FilesystemNotFoundError):
        files.stat("/tmp/newer")
    with pytest.raises(OSError, match="does not exist"):
        files.read("/tmp/newer")


def check_watching(sandbox: Sandbox) -> None:
    sandbox.files.make_dir("/tmp/watched", user="root")
    with sandbox.files.watch_dir("/tmp/watched") as watcher:
        Sandbox.connect(sandbox.sandbox_id).files.write("/tmp/watched/f", "x")
        event = next(iter(watcher))
    assert (event.name, event.type) == ("f", "EVENT_TYPE_CREATE")


def check_terminals(sandbox: Sandbox) -> None:
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80))
    terminal.resize(PtySize(rows=33, cols=101))
    terminal.send_stdin(b"stty size; exit\n")
    output = b"".join(bytes(piece) for piece in terminal)
    assert b"33 101" in output
    second = sandbox.pty.create(PtySize(rows=24, cols=80))
    second.disconnect()
    again = sandbox.pty.connect(second.pid)
    assert again.kill()
    assert not sandbox.pty.kill(second.pid)
