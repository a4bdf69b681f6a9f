"""Sandboxes that were started before anybody asked: what their clients find in them, and what they never do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from support.service import Service

#: The service of this file.
PART = 6

#: How long ago the first process was started, and the interpreter.
AGES = """
import os
def age(pid):
    started = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(open("/proc/uptime").read().split()[0]) - started
print(age(1), age(os.getppid()))
"""

IDENTITY = """
import os, random, uuid, socket
print(random.random(), uuid.uuid4(), uuid.getnode() and hash("x"), os.urandom(8).hex(), id(object()))
print(socket.gethostname(), open("/etc/machine-id").read().strip())
"""


@pytest.fixture(scope="module")
def service(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    more = {"CUBE_WARM_POOL": "2", "CUBE_WARM_POOL_MAX": "3", "CUBE_MEMORY_RESERVE": "0"}
    service = Service(tmp_path_factory.mktemp("warm"), templates, PART, more=more)
    service.up()
    try:
        yield service
    finally:
        service.close()


def stocked(service: Service, **wishes: object) -> Sandbox:
    """A sandbox out of the stock: one that is older than its creation. Others are thrown away."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        begun = time.monotonic()
        sandbox = Sandbox.create(**wishes, **service.client)  # type: ignore[arg-type]
        first, interpreter = (float(age) for age in sandbox.run_code(AGES).logs.stdout[0].split())
        if min(first, interpreter) > time.monotonic() - begun + 0.05:
            return sandbox
        sandbox.kill()
        time.sleep(1)  # the stock is filled in pauses
    raise AssertionError("no sandbox came out of the stock")


def test_one_out_of_the_stock_is_like_any_other(service: Service) -> None:
    with stocked(service, metadata={"a": "b"}, timeout=60) as sandbox:
        assert sandbox.get_info().metadata == {"a": "b"}
        assert sandbox.commands.run("hostname").stdout.strip() == sandbox.sandbox_id
        assert sandbox.run_code("1 + 1").text == "2"
        sandbox.files.write("/home/user/x", "y")
        assert sandbox.files.read("/home/user/x") == "y"


def test_it_asks_for_its_own_token(service: Service) -> None:
    with stocked(service) as sandbox:
        headers = {"E2b_Sandbox_Id": sandbox.sandbox_id, "E2b_Sandbox_Port": "49983"}
        assert service.get("/files?path=/etc/hostname", **headers).status_code == 401


def test_its_variables_reach_commands_and_code(service: Service) -> None:
    with stocked(service, envs={"GREETING": "hello"}) as sandbox:
        assert sandbox.commands.run("echo $GREETING").stdout == "hello\n"
        assert sandbox.run_code("import os\nos.environ['GREETING']").text == "hello"


def test_two_of_them_share_no_state_and_no_randomness(service: Service) -> None:
    with stocked(service) as one, stocked(service) as other:
        one.run_code("secret = 1")
        error = other.run_code("secret").error
        assert error is not None
        assert error.name == "NameError"
        values = [
            value for box in (one, other) for line in box.run_code(IDENTITY).logs.stdout for value in line.split()
        ]
        assert len(set(values)) == len(values) == 14


def test_the_stock_is_not_listed_and_leaves_nothing(service: Service) -> None:
    with stocked(service):
        pass
    assert Sandbox.list(**service.client).next_items() == []  # type: ignore[arg-type]
    assert "0 sandboxes were ended" in service.run("down").stdout
    service.up()
