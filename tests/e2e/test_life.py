"""Start, crash, restart and end of the service."""

from __future__ import annotations

import time
from dataclasses import fields

import pytest
from e2b_code_interpreter import Sandbox

from support.service import Service, footprint, remains

pytestmark = pytest.mark.root


def ended(sandbox: Sandbox) -> bool:
    return not sandbox.is_running()


def wait_until_ended(sandbox: Sandbox, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ended(sandbox):
        assert time.monotonic() < deadline, "the sandbox is still there"


def test_down_leaves_nothing_behind(own_service: Service) -> None:
    before = footprint(own_service)
    own_service.up()
    busy = Sandbox.create("code-interpreter-v1", **own_service.client)
    busy.run_code("x = 1")
    busy.commands.run("sleep 1000 & nohup sleep 1000 >/dev/null 2>&1 &", background=True)
    busy.files.write("big.bin", b"x" * (8 << 20))
    Sandbox.create("base", **own_service.client).pause()
    during = footprint(own_service)
    assert all(getattr(during, kind.name) for kind in fields(during)), "each kind of trace is looked for in vain"
    own_service.down()
    assert remains(before, during, footprint(own_service)) == {}
    assert not own_service.run_dir.exists()


def test_down_after_a_crash_leaves_nothing_behind(own_service: Service) -> None:
    before = footprint(own_service)
    own_service.up()
    Sandbox.create("base", **own_service.client)
    during = footprint(own_service)
    own_service.kill()
    own_service.down()
    assert remains(before, during, footprint(own_service)) == {}


def test_down_is_idempotent(own_service: Service) -> None:
    own_service.up()
    own_service.down()
    assert "No service was running" in own_service.run("down").stdout


def test_up_twice_is_one_service(own_service: Service) -> None:
    own_service.up()
    pid = own_service.pid
    assert "runs already" in own_service.run("up", "--detach").stdout
    assert own_service.pid == pid


def test_a_timeout_ends_the_sandbox(service: Service) -> None:
    sandbox = Sandbox.create("base", timeout=2, **service.client)
    assert not ended(sandbox)
    wait_until_ended(sandbox, 10)
    assert not sandbox.kill()


def test_a_timeout_can_be_moved(service: Service) -> None:
    sandbox = Sandbox.create("base", timeout=300, **service.client)
    sandbox.set_timeout(1)
    wait_until_ended(sandbox, 10)


def test_sandboxes_survive_a_crash_and_keep_their_deadline(own_service: Service) -> None:
    own_service.up()
    long = Sandbox.create("base", timeout=600, **own_service.client)
    long.files.write("kept.txt", "kept")
    short = Sandbox.create("base", timeout=6, **own_service.client)
    paused = Sandbox.create("base", timeout=600, **own_service.client)
    paused.pause()
    own_service.kill()
    own_service.up()
    long = Sandbox.connect(long.sandbox_id, **own_service.client)
    assert long.files.read("kept.txt") == "kept"
    assert long.commands.run("echo again").stdout == "again\n"
    assert Sandbox.connect(paused.sandbox_id, **own_service.client).commands.run("echo thawed").stdout == "thawed\n"
    wait_until_ended(short, 15)


def test_a_deadline_that_passes_while_the_service_is_down(own_service: Service) -> None:
    own_service.up()
    sandbox = Sandbox.create("base", timeout=2, **own_service.client)
    own_service.kill()
    time.sleep(2)  # the deadline itself has to pass while nobody watches it
    own_service.up()
    wait_until_ended(sandbox, 5)


def test_status_tells_what_runs(own_service: Service) -> None:
    assert own_service.run("status", check=False).returncode == 1
    own_service.up()
    sandbox = Sandbox.create("base", **own_service.client)
    assert sandbox.sandbox_id in own_service.run("status").stdout
    assert sandbox.sandbox_id in own_service.run("status", "--json").stdout
