"""envd on a loopback port, around a guest on this host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import Sandbox

from cube.envd.sandboxes import EnvdSandbox
from support.connect_rpc import RpcClient
from support.descriptors import open_fds
from support.envd_server import TOKEN, EnvdServer, Sandboxes, make_sandbox, serve
from support.local_guest import LocalGuest

API_KEY = "e2b_" + "0" * 40


def fds() -> set[str]:
    """Open descriptors of this process, by what they are."""
    return {f"{fd} {target}" for fd, target in open_fds().items()}


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[LocalGuest]:
    home = tmp_path / "home"
    home.mkdir()
    made = LocalGuest(home)
    yield made
    made.kill_all()


@pytest.fixture
def sandbox(guest: LocalGuest) -> EnvdSandbox:
    return make_sandbox(guest)


@pytest.fixture
def server(sandbox: EnvdSandbox) -> Iterator[EnvdServer]:
    sandboxes = Sandboxes()
    sandboxes.add(sandbox)
    with serve(sandboxes) as running:
        yield running


@pytest.fixture
def rpc(server: EnvdServer) -> Iterator[RpcClient]:
    client = RpcClient(server.url, token=TOKEN)
    yield client
    client.http.close()


@pytest.fixture
def client(server: EnvdServer, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The unmodified client, connected."""
    return Sandbox.connect("i1", api_key=API_KEY, api_url=server.url, sandbox_url=server.url)
