"""Start, crash, adoption and end of the proxy, and what it may and may not do on the machine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from proxy_door import Known, opened, settings_in, tcp_listener

from cube.model.errors import HostError
from cube.proxy.envoy import find_binary
from cube.proxy.inbound import CubeProxy
from cube.proxy.process import identify
from cube.proxy.routes import Route
from cube.settings import Settings

pytestmark = pytest.mark.root

SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        peer, _ = listener.accept()
        peer.recv(65536)
        peer.sendall(b"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\n")
        peer.sendall(b"transfer-encoding: chunked\\r\\n\\r\\n2\\r\\nhi\\r\\n")
        if len(sys.argv) == 2:
            peer.sendall(b"0\\r\\n\\r\\n")
            peer.close()
"""


class Server:
    """A process in a "sandbox" that answers ``hi``; with ``endless`` it never finishes the answer."""

    def __init__(self, address: str, *, endless: bool = False) -> None:
        command = [sys.executable, "-c", SERVER, address, *(["endless"] if endless else [])]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server("127.64.0.7")
    yield server
    server.kill()


async def served(settings: Settings, server: Server, sandbox_id: str = "box1") -> int:
    async with httpx.AsyncClient(base_url=settings.public_url) as client:
        response = await client.get("/", headers={"host": f"{server.port}-{sandbox_id}.localhost"})
        return response.status_code


async def eventually(settings: Settings, server: Server) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                if await served(settings, server) == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.02)


def files_in(run_dir: Path) -> list[Path]:
    return sorted(run_dir.rglob("*"))


async def test_close_leaves_no_process_and_no_file(run_dir: Path) -> None:
    async with opened(run_dir) as door:
        door.proxy.added(Route("box1", "127.64.0.7"))
        pid = door.proxy.envoy_pid
        assert pid is not None
        await door.proxy.close()
        assert identify(pid) is None
        assert files_in(run_dir) == []
        await door.proxy.close()


async def test_close_leaves_the_sockets_of_others(run_dir: Path) -> None:
    async with opened(run_dir) as door:
        door.settings.api_socket.touch()
        await door.proxy.close()
    assert files_in(run_dir) == [run_dir / "proxy", door.settings.api_socket]
    door.settings.api_socket.unlink()


@pytest.mark.parametrize("envoy_runs", [False, True])
async def test_cancelled_start_leaves_nothing(run_dir: Path, envoy_runs: bool) -> None:
    proxy = CubeProxy(settings_in(run_dir), Known())
    starting = asyncio.create_task(proxy.start())
    await asyncio.sleep(0)
    while envoy_runs and proxy.envoy_pid is None:  # noqa: ASYNC110  nothing announces the moment
        await asyncio.sleep(0)
    pid = proxy.envoy_pid
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert pid is None or identify(pid) is None
    assert files_in(run_dir) == []


async def test_taken_port_is_an_error_that_names_it(run_dir: Path) -> None:
    settings = settings_in(run_dir)
    with tcp_listener("127.0.0.1", settings.port), pytest.raises(HostError, match=f"{settings.port}.*in use"):
        await CubeProxy(settings, Known()).start()
    assert files_in(run_dir) == []


async def test_second_proxy_cannot_share_the_port(run_dir: Path, tmp_path_factory: Any) -> None:
    async with opened(run_dir) as door:
        other = Settings(**{**door.settings.model_dump(), "run_dir": run_dir / "other"})
        with pytest.raises(HostError, match="in use"):
            await CubeProxy(other, Known()).start()
    (run_dir / "other").rmdir()


async def test_killed_envoy_comes_back(run_dir: Path, server: Server) -> None:
    async with opened(run_dir) as door:
        door.proxy.added(Route("box1", "127.64.0.7"))
        first = door.proxy.envoy_pid
        os.kill(first, signal.SIGKILL)
        await eventually(door.settings, server)
        assert door.proxy.envoy_pid not in (None, first)


def abandoned_envoy(settings: Settings, address: str) -> int:
    """Start a control plane with one sandbox, kill it, and return the process id of the Envoy that it leaves."""
    script = Path(__file__).with_name("control_plane.py")
    command = [sys.executable, str(script), str(settings.run_dir), str(settings.port), address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        envoy = int(child.stdout.readline())
        child.kill()
    return envoy


async def test_killed_control_plane_does_not_stop_traffic(run_dir: Path, server: Server) -> None:
    settings = settings_in(run_dir)
    envoy = await asyncio.to_thread(abandoned_envoy, settings, "127.64.0.7")
    assert await served(settings, server) == 200
    assert await served(settings, server, "other") == 503
    proxy = CubeProxy(settings, Known())
    await proxy.start()
    assert proxy.envoy_pid == envoy, "the running Envoy is taken over"
    assert await served(settings, server) == 404, "the table starts empty"
    proxy.added(Route("box1", "127.64.0.7"))
    assert await served(settings, server) == 200
    await proxy.close()
    assert identify(envoy) is None
    assert files_in(run_dir) == []


async def test_envoy_with_other_options_is_replaced(run_dir: Path) -> None:
    settings = settings_in(run_dir)
    former = await asyncio.to_thread(abandoned_envoy, settings, "127.64.0.7")
    proxy = CubeProxy(Settings(**{**settings.model_dump(), "instance": "other"}), Known())
    await proxy.start()
    assert proxy.envoy_pid != former
    assert identify(former) is None
    await proxy.close()


async def test_remove_ends_what_a_killed_run_left(run_dir: Path) -> None:
    settings = settings_in(run_dir)
    envoy = await asyncio.to_thread(abandoned_envoy, settings, "127.64.0.7")
    for _ in range(2):
        await CubeProxy(settings, Known()).remove()
        assert identify(envoy) is None
        assert files_in(run_dir) == []


async def test_death_of_a_sandbox_cuts_its_connections(run_dir: Path) -> None:
    server = Server("127.64.0.8", endless=True)
    async with opened(run_dir) as door:
        door.proxy.added(Route("box1", "127.64.0.8"))
        async with door.client.stream("GET", "/", headers=door.host(server.port, "box1")) as response:
            parts = response.aiter_raw()
            assert await anext(parts) == b"hi"
            server.kill()
            with pytest.raises(httpx.TransportError):
                await anext(parts)


async def test_thousand_sandboxes_and_one_more(run_dir: Path, server: Server) -> None:
    async with opened(run_dir) as door:
        for number in range(1000):
            door.proxy.added(Route(f"filler{number}", "127.64.0.9"))
        door.proxy.added(Route("box1", "127.64.0.7"))
        assert (await door.client.get("/", headers=door.host(server.port, "box1"))).text == "hi"
        assert door.known.asked == []


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def test_envoy_has_no_privileges(run_dir: Path) -> None:
    async with opened(run_dir) as door:
        fields = status_of(door.proxy.envoy_pid)
        uid = door.settings.proxy_uid
        assert fields["Uid"].split() == fields["Gid"].split() == [str(uid)] * 4
        assert fields["Groups"].strip() == ""
        assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert fields["NoNewPrivs"] == "1"


async def test_low_port_needs_one_capability_only(run_dir: Path) -> None:
    settings = Settings(**{**settings_in(run_dir).model_dump(), "host": "127.64.0.80", "port": 80})
    proxy = CubeProxy(settings, Known())
    await proxy.start()
    try:
        assert status_of(proxy.envoy_pid)["CapEff"] == "0000000000000400"  # CAP_NET_BIND_SERVICE
        async with httpx.AsyncClient() as client:
            assert (await client.get("http://127.64.0.80/")).status_code == 503
    finally:
        await proxy.close()


@pytest.mark.parametrize("name", ["xds.sock", "lookup.sock", "admin/admin.sock"])
async def test_other_users_cannot_connect(run_dir: Path, name: str) -> None:
    async with opened(run_dir) as door:
        path = door.settings.run_dir / "proxy" / name
        assert succeeds_as(0, partial(connect, path))
        assert succeeds_as(door.settings.proxy_uid, partial(connect, path))
        assert not succeeds_as(65534, partial(connect, path))


def succeeds_as(uid: int, action: Callable[[], object]) -> bool:
    """Whether ``action`` works in a process of this user and group."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


async def test_proxy_user_reads_the_table_and_cannot_change_it(run_dir: Path) -> None:
    async with opened(run_dir) as door:
        door.proxy.added(Route("box1", "127.64.0.7"))
        uid, table = door.settings.proxy_uid, run_dir / "proxy" / "routes"
        assert succeeds_as(uid, (table / "box1").read_bytes)
        assert not succeeds_as(65534, (table / "box1").read_bytes)
        assert not succeeds_as(uid, (table / "new").touch)
        assert not succeeds_as(uid, (table / "box1").unlink)
        assert not succeeds_as(uid, lambda: (table / "box1").write_bytes(b""))


async def test_binary_below_a_closed_directory_runs_all_the_same(run_dir: Path) -> None:
    closed = run_dir / "closed"
    closed.mkdir(mode=0o700)
    binary = closed / "envoy"
    os.link(find_binary(), binary)
    settings = settings_in(run_dir / "in")
    proxy = CubeProxy(settings, Known(), binary=binary)
    await proxy.start()
    await proxy.close()
    binary.unlink()
    closed.rmdir()
    (run_dir / "in").rmdir()


async def test_envoy_that_cannot_start_says_why(run_dir: Path) -> None:
    broken = run_dir / "envoy"
    broken.write_text("#!/bin/sh\necho no such luck >&2; exit 3\n")
    broken.chmod(0o755)
    proxy = CubeProxy(settings_in(run_dir / "in"), Known(), binary=broken)
    with pytest.raises(HostError, match="no such luck"):
        await proxy.start()
    broken.unlink()
    (run_dir / "in").rmdir()
