"""Images of others, for both kinds of sandboxes, by the unmodified client: nothing has to be in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2b import CommandExitException, InvalidArgumentException, PtySize, SandboxException
from e2b_code_interpreter import Sandbox

from support.connect_rpc import RpcClient, output
from support.foreign_images import like_alpine, like_distroless
from support.service import Service

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

_PART = 15
_IMAGES: dict[str, Callable[[Path], Path]] = {"alpine": like_alpine, "distroless": like_distroless}


@pytest.fixture(scope="module", params=["container", "microvm"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("images")
    templates = directory / "templates"
    templates.mkdir()
    more = {"CUBE_RUNTIME": request.param, "CUBE_WARM_POOL": "0", "CUBE_WARM_POOL_MAX": "0"}
    service = Service(directory, templates, _PART, more=more)
    try:
        for name, make in _IMAGES.items():
            service.run("template", "import", str(make(directory)), "--name", name)
        service.up()
        yield service
    finally:
        service.close()


def create(service: Service, image: str, **more: object) -> Sandbox:
    return Sandbox.create(image, timeout=500, request_timeout=300, **more, **service.client)  # type: ignore[arg-type]


def test_commands_run_in_an_image_without_bash(service: Service) -> None:
    with create(service, "alpine", envs={"A": "b c"}) as box:
        assert (
            box.commands.run('hello; echo "$A"; id -un; pwd').stdout
            == "hello from musl as 1000\nb c\nuser\n/home/user\n"
        )
        with pytest.raises(CommandExitException) as failed:
            box.commands.run("echo no >&2; exit 3")
        assert (failed.value.exit_code, failed.value.stderr) == (3, "no\n")
        box.files.write("dir/text", "content")
        assert box.commands.run("cat dir/text; ls -l dir/text").stdout.startswith("content-rw-")
        assert box.commands.run("hello cat", user="root", cwd="/tmp", envs={"X": "y"}).stdout == ""


def test_a_terminal_in_an_image_without_bash(service: Service) -> None:
    with create(service, "alpine") as box:
        seen = bytearray()
        terminal = box.pty.create(PtySize(rows=24, cols=80))
        box.pty.send_stdin(terminal.pid, b"hello; exit 7\n")
        with pytest.raises(CommandExitException) as ended:
            terminal.wait(on_pty=seen.extend)
        assert ended.value.exit_code == 7
        assert b"hello from musl as 1000" in seen


def test_an_image_without_a_shell_says_so_and_runs_its_program(service: Service) -> None:
    with create(service, "distroless") as box:
        with pytest.raises(InvalidArgumentException, match="the image has no shell"):
            box.commands.run("true")
        box.files.write("/home/nonroot/note", "kept")
        assert box.files.read("/home/nonroot/note") == "kept"
        assert [entry.name for entry in box.files.list("/app")] == ["hello"]
        assert run(service, box, "/app/hello") == "hello from glibc as 65532\n"


def test_code_needs_a_kernel_and_the_error_says_which(service: Service) -> None:
    with (
        create(service, "alpine") as box,
        pytest.raises(SandboxException, match="The image of this sandbox cannot run this kernel: program 'python3'"),
    ):
        box.run_code("1+1")


def test_what_is_paused_goes_on(service: Service) -> None:
    with create(service, "alpine") as box:
        sleeper = box.commands.run("sleep 1000", background=True)
        box.pause()
        box.connect(timeout=500)
        assert sleeper.pid in [process.pid for process in box.commands.list()]
        assert box.commands.run("hello").stdout == "hello from musl as 1000\n"


def run(service: Service, box: Sandbox, program: str) -> str:
    """What a program writes that is started by its path, which the E2B client has no call for."""
    rpc = RpcClient(service.url, box.sandbox_id, token=box._envd_access_token)
    rpc.http.headers["E2b-Sandbox-Port"] = "49983"
    try:
        with rpc.stream("process.Process/Start", {"process": {"cmd": program}}) as events:
            assert events.response.status_code == 200
            return output(list(events)).decode()
    finally:
        rpc.http.close()
