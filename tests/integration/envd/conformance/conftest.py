"""The same tests, by the unmodified client, for every kind of guest."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from e2b import AsyncSandbox, Sandbox

from cube.cubelet.runtime.container.launcher import Launcher
from cube.envd.guest import Guest
from support.envd_server import EnvdServer, Sandboxes, make_sandbox, serve
from support.images import fill_minimal_tree
from support.inside_sandbox import inside
from support.local_guest import LocalGuest
from support.vm_ground import booted, erofs

ROOT = Path(__file__).parents[4]
API_KEY = "e2b_" + "0" * 40
#: As far as ``setfattr -n NAME -v VALUE FILE`` goes.
_SETFATTR = """
#include <string.h>
#include <sys/xattr.h>
int main(int argc, char **argv) { return argc != 6 || setxattr(argv[5], argv[2], argv[4], strlen(argv[4]), 0); }
"""


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


@asynccontextmanager
async def _microvm(directory: Path) -> AsyncIterator[Guest]:
    fill_minimal_tree(directory / "tree")
    _compile(_SETFATTR, directory / "tree/bin/setfattr")
    async with booted(directory, erofs(directory / "tree", directory / "image"), open_files=65536) as (_, guest):
        yield guest


def _compile(source: str, program: Path) -> None:
    """A static program for an image that has no Python."""
    command = ["musl-gcc", "-static", "-x", "c", "-", "-o", program]
    subprocess.run(command, input=source, text=True, check=True, capture_output=True)


@contextmanager
def _serve_inside(inside_of: AbstractAsyncContextManager[Guest]) -> Iterator[EnvdServer]:
    with serve(Sandboxes()) as server:
        stack = AsyncExitStack()

        async def start() -> None:
            server.sandboxes.add(make_sandbox(await stack.enter_async_context(inside_of)))

        async def stop() -> None:
            await server.sandboxes.close_state("i1")
            await stack.aclose()

        server.run(start(), 150)
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


@pytest.fixture(
    scope="package",
    params=["local", *(pytest.param(kind, marks=pytest.mark.root) for kind in ("container", "microvm"))],
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvdServer]:
    """envd around a guest of each kind."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "local":
        with _serve_local(directory) as server:
            yield server
        return
    inside_of = (
        _microvm(directory)
        if request.param == "microvm"
        else _container(directory, request.getfixturevalue("cube_init"))
    )
    with _serve_inside(inside_of) as server:
        yield server


@pytest.fixture
def client(server: EnvdServer) -> Iterator[Sandbox]:
    """The blocking client; the home directory is empty, and nothing runs."""
    sandbox = Sandbox.connect("i1", api_key=API_KEY, api_url=server.url, sandbox_url=server.url)
    yield sandbox
    while left := sandbox.commands.list():
        for process in left:
            sandbox.commands.kill(process.pid)
    sandbox.commands.run("find . -mindepth 1 -maxdepth 1 -exec rm -rf {} +")


@pytest.fixture
async def async_client(server: EnvdServer, client: Sandbox) -> AsyncSandbox:
    """The asyncio client, for the same sandbox."""
    return await AsyncSandbox.connect("i1", api_key=API_KEY, api_url=server.url, sandbox_url=server.url)


@pytest.fixture
def home(client: Sandbox) -> str:
    """The home directory inside."""
    return client.commands.run("echo -n $HOME").stdout
