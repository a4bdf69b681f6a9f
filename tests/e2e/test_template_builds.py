"""Templates built by the unmodified E2B client, on real containers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import BuildException, Template, wait_for_port, wait_for_process
from e2b_code_interpreter import Sandbox

from support.service import Service

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

#: See :class:`support.service.Service`.
_PART = 9


@pytest.fixture(scope="module")
def service(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of this file's own: templates that clients build stay."""
    service = Service(tmp_path_factory.mktemp("builds"), templates, _PART)
    service.up()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture
def options(service: Service) -> dict[str, Any]:
    """How the client finds the service."""
    return {"api_url": service.url, "api_key": "e2b_" + "0" * 40}


def test_a_sandbox_from_what_was_built(service: Service, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "app/inner").mkdir(parents=True)
    (tmp_path / "app/main.py").write_text("print('main')")
    (tmp_path / "app/inner/data.txt").write_text("data")
    template = (
        Template(file_context_path=tmp_path)
        .from_template("base")
        .copy("app", "/opt/app/", mode=0o750)
        .copy("app/main.py", "copy.py")
        .run_cmd("echo made > /home/user/made; whoami; pwd")
        .run_cmd("whoami > /root-file", user="root")
        .set_envs({"GREETING": "hello", "BOTH": "$GREETING world"})
        .set_workdir("/opt/app")
    )
    lines: list[str] = []
    built = Template.build(
        template, "first-one", cpu_count=1, memory_mb=512, on_build_logs=lambda e: lines.append(e.message), **options
    )
    with Sandbox.create("first-one", **service.client) as sandbox:
        info = sandbox.get_info()
        assert (info.template_id, info.name, info.cpu_count, info.memory_mb) == (built.template_id, "first-one", 1, 512)
        assert sandbox.files.read("/home/user/made") == "made\n"
        assert sandbox.files.read("/root-file") == "root\n"
        assert sandbox.commands.run("pwd; echo $BOTH; python3 main.py").stdout == "/opt/app\nhello world\nmain\n"
        found = sandbox.commands.run("cd /opt/app; stat -c '%n %U %a' . main.py inner inner/data.txt ~/copy.py").stdout
        assert found.splitlines()[1:] == [
            "main.py user 750",
            "inner user 750",
            "inner/data.txt user 750",
            "/home/user/copy.py user 644",
        ]
        assert sandbox.commands.run("sudo whoami").stdout == "root\n"
    assert any("user" in line for line in lines)
    assert any("RUN echo made" in line for line in lines)


def test_a_failing_step_is_named(options: dict[str, Any]) -> None:
    template = Template().from_template("base").run_cmd("true").run_cmd("echo why >&2; exit 3")
    with pytest.raises(BuildException, match="exit code 3"):
        Template.build(template, "failing", **options)


def test_hostile_files_stay_in_the_sandbox_of_the_build(service: Service, options: dict[str, Any]) -> None:
    """Members that lead out, links that lead out, devices: whatever tar makes of them, the host has none of it."""
    marker = f"cube-hostile-{uuid.uuid4().hex}"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in ("app/file", f"../../../../../../tmp/{marker}", f"/tmp/{marker}"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("app/out")
        link.type, link.linkname = tarfile.SYMTYPE, "/../../../../tmp"
        tar.addfile(link)
        through = tarfile.TarInfo(f"app/out/{marker}")
        through.size = 4
        tar.addfile(through, io.BytesIO(b"evil"))
    with _api(service) as api:
        build = api.post("/v3/templates", json={"name": "hostile"}).json()
        files_hash = hashlib.sha256(archive.getvalue()).hexdigest()
        link_to = api.get(f"/templates/{build['templateID']}/files/{files_hash}").json()
        assert not link_to["present"]
        assert httpx.put(link_to["url"], content=archive.getvalue(), trust_env=False).status_code == 201
        assert httpx.put(link_to["url"], content=b"again", trust_env=False).status_code == 403, "it is for one upload"
        step = {"type": "COPY", "args": ["app", "/srv/"], "filesHash": files_hash}
        _begin(api, build, {"fromTemplate": "base", "steps": [step]})
        state = _ended(api, build)
        assert state["status"] in ("ready", "error"), state
        api.delete("/templates/hostile")
    for directory in ("/tmp", "/", service.directory, service.directory / "state"):
        assert not (Path(directory) / marker).exists()


def test_devices_in_an_upload_fail_the_step(service: Service) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        device = tarfile.TarInfo("app/disk")
        device.type, device.devmajor, device.devminor = tarfile.BLKTYPE, 8, 0
        tar.addfile(device)
    with _api(service) as api:
        build = api.post("/v3/templates", json={"name": "devices"}).json()
        files_hash = hashlib.sha256(archive.getvalue()).hexdigest()
        url = api.get(f"/templates/{build['templateID']}/files/{files_hash}").json()["url"]
        assert httpx.put(url, content=archive.getvalue(), trust_env=False).status_code == 201
        step = {"type": "COPY", "args": ["app", "/srv/"], "filesHash": files_hash}
        _begin(api, build, {"fromTemplate": "base", "steps": [step]})
        state = _ended(api, build)
        assert (state["status"], state["reason"]["step"]) == ("error", "1")
        assert api.delete("/templates/devices").status_code == 204


def test_deleting_a_template_ends_its_build(service: Service) -> None:
    with _api(service) as api:
        build = api.post("/v3/templates", json={"name": "endless"}).json()
        _begin(api, build, {"fromTemplate": "base", "steps": [{"type": "RUN", "args": ["echo begun; sleep 98765"]}]})
        _until(lambda: "begun" in _messages(api, build) and _runs("sleep", "98765"))
        assert api.delete("/templates/endless").status_code == 204
        assert api.get(_path(build) + "/status").status_code == 404
        assert api.get("/templates/aliases/endless").status_code == 404
        assert api.delete("/templates/endless").status_code == 404
    _until(lambda: not _runs("sleep", "98765"))


def test_what_cannot_be_built_is_refused(service: Service) -> None:
    with _api(service) as api:
        build = api.post("/v3/templates", json={"name": "refused"}).json()
        url = f"/v2{_path(build)}"
        run = {"type": "RUN", "args": ["true"]}
        for body, status, word in (
            ({"fromTemplate": "no-such-template", "steps": [run]}, 404, "no-such-template"),
            ({"fromImage": "no/such:image"}, 404, "no/such:image"),
            ({"steps": [run]}, 400, "fromTemplate"),
            ({"fromTemplate": "base", "fromImage": "base"}, 400, "fromTemplate"),
            ({"fromTemplate": "base", "steps": [{"type": "ENV", "args": ["A"]}]}, 400, "step 1"),
            ({"fromTemplate": "base", "steps": [{"type": "MOUNT"}]}, 400, "type"),
            (
                {"fromTemplate": "base", "steps": [{"type": "COPY", "args": ["a", "b"], "filesHash": "0" * 64}]},
                400,
                "up",
            ),
        ):
            answer = api.post(url, json=body)
            assert (answer.status_code, word in answer.json()["message"]) == (status, True), answer.text
        assert api.get(_path(build) + "/status").json()["status"] == "waiting"
        _begin(api, build, {"fromTemplate": "base"})
        assert api.post(url, json={"fromTemplate": "base"}).status_code == 409
        assert _ended(api, build)["status"] == "ready"
        assert api.post("/v3/templates", json={"name": "base"}).status_code == 409
        assert api.post("/v3/templates", json={"name": "No Name"}).status_code == 400
        assert api.get(f"/templates/{build['templateID']}").json()["buildStatus"] == "ready"
        assert "refused" in [name for one in api.get("/templates").json() for name in one["names"]]
        assert api.delete("/templates/refused").status_code == 204


def test_a_start_command_runs_again_where_processes_begin_anew(service: Service, options: dict[str, Any]) -> None:
    start = "echo started >> /home/user/starts; exec sleep 1000"
    template = Template().from_template("base").set_start_cmd(start, wait_for_process("sleep"))
    Template.build(template, "starting", **options)
    with Sandbox.create("starting", **service.client) as sandbox:
        assert sandbox.files.read("/home/user/starts") == "started\n"
        sandbox.pause(mode="filesystem")
        sandbox.connect()
        _until(lambda: sandbox.files.read("/home/user/starts") == "started\nstarted\n")
        sandbox.pause()
        sandbox.connect()
        assert sandbox.files.read("/home/user/starts") == "started\nstarted\n"
    Template.build(Template().from_template("starting").run_cmd("true"), "following", **options)
    with Sandbox.create("following", **service.client) as sandbox:
        assert not sandbox.files.exists("/home/user/starts"), "a start command is not handed down"


def test_a_start_command_that_fails_fails_the_build(options: dict[str, Any]) -> None:
    template = Template().from_template("base").set_start_cmd("exit 7", wait_for_port(8000))
    with pytest.raises(BuildException, match="start command"):
        Template.build(template, "not-starting", **options)


def test_a_restart_fails_what_was_under_way_and_keeps_the_rest(service: Service, options: dict[str, Any]) -> None:
    Template.build(Template().from_template("base").run_cmd("echo x > kept"), "kept", **options)
    with _api(service) as api:
        build = api.post("/v3/templates", json={"name": "cut-off"}).json()
        _begin(api, build, {"fromTemplate": "base", "steps": [{"type": "RUN", "args": ["echo begun; sleep 1000"]}]})
        _until(lambda: "begun" in _messages(api, build))
    service.kill()
    service.up()
    with _api(service) as api:
        state = api.get(_path(build) + "/status").json()
        assert (state["status"], "service ended" in state["reason"]["message"]) == ("error", True)
        assert api.delete("/templates/cut-off").status_code == 204
    with Sandbox.create("kept", **service.client) as sandbox:
        assert sandbox.files.read("/home/user/kept") == "x\n"


def _api(service: Service) -> httpx.Client:
    return httpx.Client(base_url=service.url, trust_env=False, timeout=30)


def _path(build: dict[str, Any]) -> str:
    return f"/templates/{build['templateID']}/builds/{build['buildID']}"


def _begin(api: httpx.Client, build: dict[str, Any], body: dict[str, Any]) -> None:
    answer = api.post(f"/v2{_path(build)}", json=body)
    assert answer.status_code == 202, answer.text


def _ended(api: httpx.Client, build: dict[str, Any]) -> dict[str, Any]:
    def state() -> dict[str, Any]:
        found: dict[str, Any] = api.get(_path(build) + "/status").json()
        return found

    _until(lambda: state()["status"] not in ("waiting", "building"))
    return state()


def _messages(api: httpx.Client, build: dict[str, Any]) -> list[str]:
    return [line["message"] for line in api.get(_path(build) + "/logs").json()["logs"]]


def _runs(*argv: str) -> bool:
    """Whether a program with this command line runs on the machine."""
    wanted = "\0".join((*argv, "")).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return wanted in found


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
