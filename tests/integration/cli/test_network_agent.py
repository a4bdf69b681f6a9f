"""The network agent as a program of its own: its sockets, its debug listener, and that it can be killed."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from cube.netagent.networks.fd_server import request
from cube.netagent.networks.proto.network.network_pb import GetNetworkRequest
from support import slots
from support.service import free_port

pytestmark = pytest.mark.root

#: See :class:`support.service.Service`; the second is that of an agent that runs all the while.
_PART, _QUIET_PART = 13, 14
_PATIENCE_S = 60


class Agent:
    """One instance's agent; started as often as one likes."""

    def __init__(self, directory: Path, part: int = _PART) -> None:
        self.run_dir = directory / "run"
        self.environment = {
            **os.environ,
            "CUBE_INSTANCE": slots.instance(part),
            "CUBE_NETWORK_CIDR": slots.network(part),
            "CUBE_RUN_DIR": str(self.run_dir),
            "CUBE_STATE_DIR": str(directory / "state"),
            "CUBE_SEAT_POOL": "2",
        }
        self.log = directory / "log"

    @contextmanager
    def running(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """The program, which answers; ended as an administrator would unless it has ended before."""
        command = [sys.executable, "-m", "cube.cli.main", "network-agent", *options]
        with self.log.open("ab") as log, subprocess.Popen(command, env=self.environment, stderr=log, stdout=log) as one:
            try:
                self._await(one)
                yield one
            finally:
                if one.poll() is None:
                    one.send_signal(signal.SIGTERM)
                one.wait(_PATIENCE_S)

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if self.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the agent does not answer: {self.log.read_text()}")

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.run_dir / "network" / "agent.sock"))
        return httpx.Client(transport=transport, base_url="http://agent", timeout=30)

    def get(self, path: str) -> httpx.Response:
        with self.client() as client:
            return client.get(path)

    def post(self, path: str, body: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=body)

    def command(self, *arguments: str) -> Any:
        """What a command of ``cube network`` prints as JSON."""
        line = [sys.executable, "-m", "cube.cli.main", "network", *arguments, "--json"]
        done = subprocess.run(line, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        return orjson.loads(done.stdout)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    down = [sys.executable, "-m", "cube.cli.main", "down"]
    subprocess.run(down, env=agent.environment, check=True, capture_output=True, timeout=120)
    left = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert f"{slots.instance(_PART)}-" not in left
    assert not agent.run_dir.exists()


def listeners(pid: int) -> set[int]:
    """TCP ports that a process listens on."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:
            continue
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A" and line[9] in inodes}


def test_n4_the_debug_listener_is_off_unless_asked_for(agent: Agent) -> None:
    port, health = free_port(), free_port()
    with agent.running() as process:
        without = listeners(process.pid)
    assert port not in without
    with agent.running("--pprof-listen", f"127.0.0.1:{port}", "--health-listen", f"127.0.0.1:{health}") as process:
        # The resolver of names listens too, on a port of its own.
        assert listeners(process.pid) > {port, health}
        assert len(listeners(process.pid)) == len(without) + 2
        url = f"http://127.0.0.1:{port}/debug"
        assert "network_agent.py" in httpx.get(f"{url}/tasks").text
        assert "MainThread" in httpx.get(f"{url}/threads").text
        assert "run" in httpx.get(f"{url}/profile?seconds=0.1", timeout=30).text
        assert httpx.get(f"{url}/other").status_code == 404
        assert httpx.get(f"http://127.0.0.1:{health}/readyz").json() == {"status": "ok"}
        assert httpx.post(f"http://127.0.0.1:{health}/v1/network/list", json={}).status_code == 404


def test_n4_it_is_opened_on_the_loopback_address_alone(agent: Agent) -> None:
    line = [sys.executable, "-m", "cube.cli.main", "network-agent", "--pprof-listen", "0.0.0.0:6060"]
    done = subprocess.run(line, env=agent.environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "CUBE_DEBUG_LISTEN" in done.stderr


def test_one_agent_answers_rpc_http_and_commands_alike(agent: Agent) -> None:
    policy = {"denyOut": ["0.0.0.0/0"], "allowOut": ["203.0.113.9"], "limits": {"connections": 64}}
    with agent.running():
        for name in ("agent.sock", "tap.sock"):
            assert stat.S_IMODE((agent.run_dir / "network" / name).stat().st_mode) == 0o600
        made = agent.post("/v1/network/ensure", {"sandboxId": "one", "cubeNetworkConfig": policy}).json()["network"]
        assert made["policy"] == {**policy, "limits": {"connections": 64}}
        assert {"sandbox_ip", "host_tap_name", "mvm_inner_ip", "gateway_ip"} <= made["persistMetadata"].keys()
        with agent.client() as client:
            answer = client.post(
                "/cube.network.v1.NetworkAgent/GetNetwork",
                content=GetNetworkRequest(sandbox_id="one").to_binary(),
                headers={"content-type": "application/proto"},
            )
        assert answer.status_code == 200
        assert made["persistMetadata"]["sandbox_ip"].encode() in answer.content
        assert agent.command("ls") == [made]
        assert agent.command("show", "one") == made
        assert "was not found" in agent.command("show", "two")["error"]
        assert agent.command("health")["networks"] == 1
        (dumped,) = agent.get("/v1/policies/dump").json()["policies"]
        assert (dumped["sandbox_id"], dumped["networks"]) == ("one", {"203.0.113.9/32": "PASS"})
        assert agent.post("/v1/network/release", {"sandboxId": "one"}).json() == {"released": True}
        assert agent.post("/v1/network/release", {"sandboxId": "one"}).json() == {"released": True}
        assert agent.command("ls") == []


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("ensure", {"sandboxId": "../x"}, 400, "sandbox_id"),
        ("ensure", {"sandboxId": "a", "kind": "bridge"}, 400, "kind"),
        ("ensure", {"sandboxId": "a", "cubeNetworkConfig": {"allowOut": ["a.test"]}}, 400, "allowed domains require"),
        ("ensure", {"sandboxId": "a", "cubeNetworkConfig": {"denyOut": ["a.test"]}}, 400, "denyOut"),
        ("ensure", {"sandboxId": "a", "cubeNetworkConfig": {"rules": 7}}, 400, "rules"),
        ("ensure", {"sandboxId": "a", "cubeNetworkConfig": {"limits": {"connections": 7}}}, 400, "connections"),
        ("ensure", ["a"], 400, "decoded"),
        ("ensure", {"sandboxId": 7}, 400, "decoded"),
        ("get", {"sandboxId": "nobody"}, 404, "was not found"),
        ("update", {"sandboxId": "nobody"}, 404, "was not found"),
    ],
)
def test_what_is_wrong_is_named(quiet: Agent, path: str, body: Any, status: int, words: str) -> None:
    answer = quiet.post(f"/v1/network/{path}", body)
    assert answer.status_code == status
    assert words in answer.json()["message"]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent for requests that change nothing."""
    agent = Agent(tmp_path_factory.mktemp("agent"), _QUIET_PART)
    with agent.running():
        yield agent
    down = [sys.executable, "-m", "cube.cli.main", "down"]
    subprocess.run(down, env=agent.environment, check=True, capture_output=True, timeout=120)


def test_other_methods_and_paths(quiet: Agent) -> None:
    assert quiet.get("/v1/network/list").status_code == 405
    assert quiet.get("/v1/network/other").status_code == 404
    assert quiet.get("/healthz").json() == {"status": "ok"}


def test_a_second_agent_of_the_instance_is_refused(quiet: Agent) -> None:
    line = [sys.executable, "-m", "cube.cli.main", "network-agent"]
    done = subprocess.run(line, env=quiet.environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "has an agent already" in done.stderr
    assert quiet.get("/readyz").status_code == 200


def test_killed_at_once_everything_is_there_again_and_a_machine_goes_on(agent: Agent) -> None:
    """The descriptor that was handed out stays good, and the policy is in force all the while."""
    with agent.running() as process:
        made = agent.post("/v1/network/ensure", {"sandboxId": "one"}).json()["network"]
        name = made["persistMetadata"]["host_tap_name"]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(agent.run_dir / "network" / "tap.sock"))
            descriptor, index = request(connection, "one", name)
        assert index == made["ifindex"]
        process.kill()
        process.wait()
    try:
        with agent.running():
            assert agent.post("/v1/network/ensure", {"sandboxId": "one"}).json()["network"] == made
            assert agent.command("health")["networks"] == 1
            assert agent.post("/v1/network/release", {"sandboxId": "one"}).is_success
    finally:
        os.close(descriptor)
