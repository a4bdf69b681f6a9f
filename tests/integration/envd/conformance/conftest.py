"""The same tests, by the unmodified client, for every kind of guest."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from e2b import AsyncSandbox, Sandbox

from cube.cubelet.runtime.container.launcher import Launcher
from cube.envd.guest import Guest
from support.envd_server import EnvdServer, Sandboxes, make_sandbox, serve
from support.inside_sandbox import inside
from support.local_guest import LocalGuest

ROOT = Path(__file__).parents[4]
API_KEY = "e2b_" + "0" * 40


@pytest.fixture(scope="session")
def cube_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Process 1 of a container, built from the sources of this checkout."""
    build = tmp_path_factory.mktemp("cube-init")
    source = str(ROOT / "native" / "cube-init")
    subprocess.run(["make", "--silent", "-C", source, f"BUILD={build}"], check=True)
    return build / "cube-init"


@asynccontextmanager
async def _container(directory: Path, cube_init: Path) -> AsyncIterator[Guest]:
    launcher = Launcher()
    await launcher.start(cube_init)
    try:
        async with inside(launcher, directory, cube_init) as box:
            yield box.guest
    finally:
        await launcher.close()


@contextmanager
def _serve_container(directory: Path, cube_init: Path) -> Iterator[EnvdServer]:
    with serve(Sandboxes()) as server:
        stack = AsyncExitStack()

        async def start() -> None:
            server.sandboxes.add(make_sandbox(await stack.enter_async_context(_container(directory, cube_init))))

        async def stop() -> None:
            await server.sandboxes.close_state("i1")
            await stack.aclose()

        server.run(start())
        try:
            yield server
        finally:
            server.run(stop())


@contextmanager
def _serve_local(directory: Path) -> Iterator[EnvdServer]:
    guest = LocalGuest(directory)
    sandboxes = Sandboxes()
    sandboxes.add(make_sandbox(guest))
    with serve(sandboxes) as server:
        yield server
    guest.kill_all()


@pytest.fixture(scope="module", params=["local", pytest.param("container", marks=pytest.mark.root)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvdServer]:
    """envd around a guest of each kind."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "local":
        with _serve_local(directory) as server:
            yield server
        return
    with _serve_container(directory, request.getfixturevalue("cube_init")) as server:
        yield server


@pytest.fixture
def client(server: EnvdServer) -> Iterator[Sandbox]:
    """The blocking client; the home directory is empty, and nothing runs."""
    sandbox = Sandbox.connect("i1", api_key=API_KEY, api_url=server.url, sandbox_url=server.url)
    yield sandbox
    while left := sandbox.commands.list():
        for process in left:
            sandbox.commands.kill(process.pid)
    sandbox.commands.run("find . -mindepth 1 -delete")


@pytest.fixture
async def async_client(server: EnvdServer, client: Sandbox) -> AsyncSandbox:
    """The asyncio client, for the same sandbox."""
    return await AsyncSandbox.connect("i1", api_key=API_KEY, api_url=server.url, sandbox_url=server.url)


@pytest.fixture
def home(client: Sandbox) -> str:
    """The home directory inside."""
    return client.commands.run("echo -n $HOME").stdout
