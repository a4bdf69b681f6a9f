"""What E2B's client can ask of the API beyond the life of a sandbox: the unmodified client against a real service."""

from __future__ import annotations

import json
import os
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import CommandExitException, Sandbox, SandboxException

from support.service import Service

pytestmark = pytest.mark.root


#: Who shared files belong to on the host.
OWNER = 4321
#: What root of a sandbox is on the host, in shared directories.
SHARED_ROOT = 0x2000_0000 - 65536


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the host that sandboxes may mount."""
    shared = tmp_path_factory.mktemp("shared")
    shared.chmod(0o755)
    return shared


@pytest.fixture(scope="module")
def service(templates: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the settings that these tests need."""
    more = {"CUBE_HOST_MOUNT_PREFIXES": str(shared), "CUBE_HOST_MOUNT_UID": str(OWNER)}
    service = Service(tmp_path_factory.mktemp("features"), templates, 3, more=more)
    service.up()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


def test_a_create_with_the_same_key_is_the_same_sandbox(service: Service, key: str) -> None:
    first = Sandbox.create("base", idempotency_key=key, **service.client)
    first.files.write("mark", "here")
    again = Sandbox.create("base", idempotency_key=key, **service.client)
    assert again.sandbox_id == first.sandbox_id
    assert again.files.read("mark") == "here"
    with pytest.raises(SandboxException, match="422"):
        Sandbox.create("base", idempotency_key=key, timeout=17, **service.client)
    assert again.kill()


def ask(service: Service, sandbox: Sandbox, port: int, path: str = "/", **headers: str) -> httpx.Response:
    """The answer of a port; a proxy that outlived its service says 503 until the new one can be asked."""
    routing = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
    deadline = time.monotonic() + 10
    while True:
        answer = httpx.get(service.url + path, headers={**routing, **headers}, timeout=30, trust_env=False)
        if answer.status_code != 503 or time.monotonic() > deadline:
            return answer


ECHO = """
import http.server
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(self.headers).encode())
http.server.HTTPServer(("", 8000), Echo).serve_forever()
"""


def test_ports_of_a_sandbox_without_public_traffic_ask_for_its_token(service: Service) -> None:
    network = {"allow_public_traffic": False, "mask_request_host": "app.test:${PORT}"}
    sandbox = Sandbox.create(
        "code-interpreter-v1", network=network, lifecycle={"on_timeout": "pause", "auto_resume": True}, **service.client
    )
    token = sandbox.traffic_access_token
    assert token
    sandbox.files.write("echo.py", ECHO)
    sandbox.commands.run("exec python3 echo.py > /dev/null 2>&1", background=True)
    wait_for_port(sandbox, 8000)
    secured = {"e2b-traffic-access-token": token}
    for _ in range(2):
        for port in (8000, 49999):
            assert ask(service, sandbox, port, "/health").status_code == 403
            refused = ask(service, sandbox, port, "/health", **{"e2b-traffic-access-token": "x" * len(token)})
            assert (refused.status_code, refused.json()["sandboxId"]) == (403, sandbox.sandbox_id)
        assert ask(service, sandbox, 49999, "/health", **secured).status_code == 200
        seen = ask(service, sandbox, 8000, **secured).text.lower()
        assert "host: app.test:8000" in seen
        assert "token" not in seen
        service.kill()
        service.up()
    sandbox.pause()
    assert ask(service, sandbox, 8000).status_code == 403
    assert ask(service, sandbox, 49999, "/health").status_code == 403
    assert Sandbox.get_info(sandbox.sandbox_id, **service.client).state.value == "paused"
    assert ask(service, sandbox, 8000, **secured).status_code == 200
    assert Sandbox.connect(sandbox.sandbox_id, **service.client).traffic_access_token == token
    sandbox.kill()


def wait_for_port(sandbox: Sandbox, port: int) -> None:
    connect = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
    probe = f'python3 -c "{connect}" 2>/dev/null && echo open || true'
    deadline = time.monotonic() + 10
    while "open" not in sandbox.commands.run(probe).stdout:
        assert time.monotonic() < deadline, "nobody listens"


def mounting(*entries: dict[str, object]) -> dict[str, str]:
    return {"host-mount": json.dumps(entries)}


@pytest.fixture
def project(shared: Path, key: str) -> Path:
    """A directory below the allowed one that belongs to the owner of shared files."""
    project = shared / key
    project.mkdir()
    os.chown(project, OWNER, OWNER)
    return project


def test_a_directory_of_the_host_is_shared(service: Service, project: Path) -> None:
    (project / "given").write_text("from the host")
    os.chown(project / "given", OWNER, OWNER)
    (project / "roots").write_text("of root")
    (project / "roots").chmod(0o640)
    metadata = mounting({"hostPath": str(project), "mountPath": "/home/user/project"})
    with Sandbox.create("base", metadata=metadata, **service.client) as sandbox:
        assert sandbox.get_info().metadata == {}
        assert sandbox.files.read("project/given") == "from the host"
        owners = sandbox.commands.run("stat -c '%n %u:%g' given roots .", cwd="/home/user/project").stdout
        assert owners.split("\n")[:3] == ["given 1000:1000", "roots 65534:65534", ". 1000:1000"]
        sandbox.files.write("project/made", "from inside")
        inside = (
            "chmod u+s /bin/true 2>/dev/null; cp /bin/true project/tool; chmod 4755 project/tool; cat project/roots"
        )
        with pytest.raises(CommandExitException, match="Permission denied"):
            sandbox.commands.run(inside, user="root", cwd="/home/user")
    assert (project / "made").read_text() == "from inside"
    assert owner(project / "made") == OWNER
    assert owner(project / "tool") == SHARED_ROOT
    assert stat.S_IMODE((project / "tool").stat().st_mode) == 0o4755
    with Sandbox.create("base", metadata=metadata, **service.client) as sandbox:
        sees = sandbox.commands.run("stat -c %u project/tool; findmnt -no OPTIONS project", cwd="/home/user").stdout
        assert sees.startswith("0\n")
        assert {"nosuid", "nodev"} <= set(sees.split()[1].split(","))


def owner(path: Path) -> int:
    status = path.stat()
    assert status.st_uid == status.st_gid
    return status.st_uid


def test_a_read_only_directory_stays_as_it_is(service: Service, project: Path) -> None:
    (project / "given").write_text("x")
    metadata = mounting({"hostPath": str(project), "mountPath": "/mnt/given", "readOnly": True})
    with Sandbox.create("base", metadata=metadata, **service.client) as sandbox:
        assert sandbox.files.read("/mnt/given/given") == "x"
        for command in (
            "touch /mnt/given/new",
            "rm /mnt/given/given",
            "mount -o remount,rw /mnt/given && touch /mnt/given/x",
        ):
            with pytest.raises(CommandExitException):
                sandbox.commands.run(command, user="root")
        with pytest.raises(CommandExitException, match="Read-only file system"):
            sandbox.commands.run("touch /mnt/given/new", user="user")
    assert os.listdir(project) == ["given"]


def test_what_was_not_allowed_is_refused_with_words(service: Service, shared: Path, project: Path) -> None:
    (project / "out").symlink_to("/etc")
    (project / "file").touch()
    wishes = {
        "/etc": f"hostPath must be under one of [{shared}]",
        f"{shared}/../x": "hostPath must be under one of",
        f"{project}/out": "leads out",
        f"{project}/file": "not a directory",
        f"{project}/missing": "does not exist",
    }
    for path, words in wishes.items():
        with pytest.raises(SandboxException, match="400") as caught:
            Sandbox.create("base", metadata=mounting({"hostPath": path, "mountPath": "/mnt"}), **service.client)
        assert words in str(caught.value)
    assert not [box for box in service.get("/v2/sandboxes").json() if box["state"] == "creating"]


def test_several_directories_and_a_restart(service: Service, project: Path) -> None:
    for name in "ab":
        (project / name).mkdir()
        (project / name / "file").write_text(name)
    entries = [{"hostPath": f"{project}/{name}", "mountPath": f"/srv/{name}"} for name in "ab"]
    sandbox = Sandbox.create("base", metadata=mounting(*entries), **service.client)
    service.kill()
    service.up()
    assert sandbox.commands.run("cat /srv/a/file /srv/b/file").stdout == "ab"
    sandbox.kill()
    assert (project / "a/file").read_text() == "a"
