"""Snapshots, forks, rollback and pauses without memory through the unmodified E2B client, on real containers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from support.service import Service, footprint, remains

pytestmark = pytest.mark.root

#: See :class:`support.service.Service`.
_PART = 7


@pytest.fixture(scope="module")
def service(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of this file's own: it lists what there is."""
    directory = tmp_path_factory.mktemp("snapshots")
    shared = directory / "shared"
    shared.mkdir()
    os.chown(shared, 1000, 1000)
    service = Service(directory, templates, _PART, more={"CUBE_HOST_MOUNT_PREFIXES": str(shared)})
    service.up()
    try:
        yield service
    finally:
        for snapshot in service.get("/snapshots").json():
            Sandbox.delete_snapshot(snapshot["snapshotID"], **service.client)
        service.close()


def rollback(service: Service, sandbox: Sandbox, snapshot_id: str) -> httpx.Response:
    url = f"{service.url}/sandboxes/{sandbox.sandbox_id}/rollback"
    return httpx.post(url, json={"snapshotID": snapshot_id}, timeout=30, trust_env=False)


def test_a_sandbox_from_a_snapshot_has_its_files_and_environment(service: Service) -> None:
    source = Sandbox.create("base", envs={"A": "1", "B": "1"}, **service.client)
    source.files.write("work/notes.txt", "before")
    source.commands.run("sudo mkdir /opt/tool && echo x | sudo tee /opt/tool/file && chmod 600 work/notes.txt")
    snapshot = source.create_snapshot(name="prepared")
    source.files.write("work/notes.txt", "after")
    made = [
        Sandbox.create(reference, envs={"B": "2"}, **service.client) for reference in (snapshot.snapshot_id, "prepared")
    ]
    for sandbox in made:
        assert sandbox.files.read("work/notes.txt") == "before"
        assert sandbox.commands.run("stat -c '%U %a' work/notes.txt; cat /opt/tool/file; echo $A$B").stdout == (
            "user 600\nx\n12\n"
        )
        assert sandbox.commands.run("sudo chown root work/notes.txt; whoami").stdout == "user\n"
    assert source.files.read("work/notes.txt") == "after"
    assert made[0].get_info().template_id == snapshot.snapshot_id
    ids = {sandbox.commands.run("cat /etc/machine-id").stdout for sandbox in (source, *made)}
    assert len(ids) == 3
    for sandbox in (source, *made):
        sandbox.kill()


def test_code_runs_in_a_sandbox_from_a_snapshot(service: Service) -> None:
    source = Sandbox.create("code-interpreter-v1", **service.client)
    source.run_code("open('/home/user/data.txt', 'w').write('42')")
    snapshot = source.create_snapshot()
    source.kill()
    sandbox = Sandbox.create(snapshot.snapshot_id, **service.client)
    assert sandbox.run_code("int(open('/home/user/data.txt').read()) + 1").text == "43"
    sandbox.kill()


def test_forks_while_the_source_goes_on(service: Service) -> None:
    source = Sandbox.create("base", metadata={"job": "7"}, **service.client)
    source.files.write("state.txt", "s")
    ticking = source.commands.run("while :; do date +%N; sleep 0.05; done", background=True)
    forks = source.fork(timeout=120, count=5)
    assert all(isinstance(fork, Sandbox) for fork in forks)
    for number, fork in enumerate(forks):
        fork.files.write("state.txt", str(number))  # type: ignore[union-attr]
    assert [fork.files.read("state.txt") for fork in forks] == list("01234")  # type: ignore[union-attr]
    assert source.files.read("state.txt") == "s"
    assert ticking.pid in [process.pid for process in source.commands.list()]
    assert not any("date" in json.dumps(p.args) for p in forks[0].commands.list())  # type: ignore[union-attr]
    tokens = {sandbox._envd_access_token for sandbox in (source, *forks)}  # type: ignore[union-attr]
    assert len(tokens) == 6
    assert forks[0].get_info().metadata == {"job": "7"}  # type: ignore[union-attr]
    for sandbox in (source, *forks):
        sandbox.kill()  # type: ignore[union-attr]
    assert service.get("/snapshots").json() == [
        snapshot for snapshot in service.get("/snapshots").json() if snapshot["originSandboxID"] != source.sandbox_id
    ]


def test_a_rollback_in_place(service: Service) -> None:
    sandbox = Sandbox.create("base", timeout=600, **service.client)
    sandbox.files.write("file.txt", "good")
    snapshot = sandbox.create_snapshot()
    sandbox.files.write("file.txt", "bad")
    sandbox.files.write("more.txt", "bad")
    running = sandbox.commands.run("sleep 1000", background=True)
    before = sandbox.get_info()
    answer = rollback(service, sandbox, snapshot.snapshot_id)
    assert (answer.status_code, answer.json()["status"]) == (200, "success")
    assert sandbox.files.read("file.txt") == "good"
    assert not sandbox.files.exists("more.txt")
    assert running.pid not in [process.pid for process in sandbox.commands.list()]
    with pytest.raises(Exception, match=r".+"):  # its connection has ended; how, the client's versions tell differently
        running.wait()
    after = sandbox.get_info()
    assert (after.started_at, after.end_at, after.state) == (before.started_at, before.end_at, before.state)
    sandbox.files.write("file.txt", "bad again")
    assert rollback(service, sandbox, snapshot.snapshot_id).status_code == 200
    assert Sandbox.connect(sandbox.sandbox_id, **service.client).files.read("file.txt") == "good"
    other = Sandbox.create("code-interpreter-v1", **service.client)
    assert rollback(service, other, snapshot.snapshot_id).status_code == 400
    other.kill()
    sandbox.kill()


def test_a_server_in_the_sandbox_is_reached_again_after_a_rollback(service: Service) -> None:
    """The address may be another one: the proxy must not send anybody to the old one."""
    sandbox = Sandbox.create("base", timeout=600, **service.client)
    snapshot = sandbox.create_snapshot()
    serve = "mkdir -p /tmp/w && cd /tmp/w && echo {} > index.html && python3 -m http.server 8080"
    for text in ("one", "two"):
        sandbox.commands.run(serve.format(text), background=True, timeout=0)
        assert fetch(service, sandbox) == f"{text}\n"
        assert rollback(service, sandbox, snapshot.snapshot_id).status_code == 200
    sandbox.kill()


def fetch(service: Service, sandbox: Sandbox) -> str:
    """What port 8080 answers once somebody listens."""
    headers = {"e2b-sandbox-id": sandbox.sandbox_id, "e2b-sandbox-port": "8080"}
    deadline = time.monotonic() + 20
    while True:
        answer = httpx.get(service.url, headers=headers, timeout=10, trust_env=False)
        if answer.status_code == 200:
            return answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)


def test_a_pause_without_memory_and_a_cold_start(service: Service) -> None:
    sandbox = Sandbox.create("base", timeout=600, **service.client)
    sandbox.files.write("kept.txt", "kept")
    sandbox.commands.run("sleep 1000", background=True)
    assert sandbox.pause(mode="filesystem") is True
    assert sandbox.pause(mode="filesystem") is False
    detail = service.get(f"/sandboxes/{sandbox.sandbox_id}").json()
    assert (detail["state"], detail["pauseMode"]) == ("paused", "filesystem")
    assert not sandbox.is_running()
    snapshot = sandbox.create_snapshot()
    again = Sandbox.connect(sandbox.sandbox_id, **service.client)
    assert again._envd_access_token == sandbox._envd_access_token
    assert sandbox.files.read("kept.txt") == "kept"
    assert again.commands.list() == []
    sandbox.commands.run("sleep 1000", background=True)
    sandbox.pause(mode="full")
    assert [p.cmd for p in Sandbox.connect(sandbox.sandbox_id, **service.client).commands.list()] != []
    sandbox.pause()
    rebooted = Sandbox.connect(sandbox.sandbox_id, on_resume="reboot", **service.client)
    assert rebooted.commands.list() == []
    assert rebooted.files.read("kept.txt") == "kept"
    sandbox.pause(mode="filesystem")
    assert sandbox.kill() is True
    assert Sandbox.create(snapshot.snapshot_id, **service.client).files.read("kept.txt") == "kept"


def test_traffic_does_not_start_a_sandbox_from_its_files(service: Service) -> None:
    sandbox = Sandbox.create(
        "base", lifecycle={"on_timeout": "pause", "auto_resume": True}, timeout=600, **service.client
    )
    sandbox.pause(mode="filesystem")
    headers = {"e2b-sandbox-id": sandbox.sandbox_id, "e2b-sandbox-port": "8080"}
    assert httpx.get(service.url, headers=headers, timeout=10, trust_env=False).status_code == 502
    assert service.get(f"/sandboxes/{sandbox.sandbox_id}").json()["state"] == "paused"
    sandbox.kill()


def test_an_automatic_pause_keeps_the_files(service: Service) -> None:
    lifecycle = {"on_timeout": {"action": "pause", "mode": "filesystem"}}
    sandbox = Sandbox.create("base", timeout=300, lifecycle=lifecycle, **service.client)  # type: ignore[arg-type]
    sandbox.files.write("kept.txt", "kept")
    sandbox.set_timeout(0)
    deadline = time.monotonic() + 30
    while (detail := service.get(f"/sandboxes/{sandbox.sandbox_id}").json())["state"] != "paused":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert detail["pauseMode"] == "filesystem"
    assert Sandbox.connect(sandbox.sandbox_id, **service.client).files.read("kept.txt") == "kept"
    sandbox.kill()


def test_a_mount_of_the_host_is_not_captured_and_mounted_again(service: Service) -> None:
    place = Path(service.more["CUBE_HOST_MOUNT_PREFIXES"])
    mounts = json.dumps([{"hostPath": str(place), "mountPath": "/mnt/shared"}])
    source = Sandbox.create("base", metadata={"host-mount": mounts}, **service.client)
    source.files.write("/mnt/shared/file.txt", "one")
    snapshot = source.create_snapshot()
    (fork,) = source.fork(timeout=60)
    source.files.write("/mnt/shared/file.txt", "two")
    made = Sandbox.create(snapshot.snapshot_id, **service.client)
    for sandbox in (made, fork):
        assert sandbox.files.read("/mnt/shared/file.txt") == "two"  # type: ignore[union-attr]
    made.files.write("/mnt/shared/file.txt", "three")
    assert (place / "file.txt").read_text() == "three"
    assert (place / "file.txt").stat().st_uid == 1000
    for sandbox in (source, made, fork):
        sandbox.kill()  # type: ignore[union-attr]


def test_snapshots_survive_a_crash_a_restart_and_the_end_of_the_service(own_service: Service) -> None:
    before = footprint(own_service)
    own_service.up()
    sandbox = Sandbox.create("base", **own_service.client)
    sandbox.files.write("kept.txt", "kept")
    snapshot = sandbox.create_snapshot(name="mine")
    stopped = Sandbox.create("base", **own_service.client)
    stopped.files.write("kept.txt", "stopped")
    stopped.pause(mode="filesystem")
    own_service.kill()
    own_service.up()
    assert sandbox.files.read("kept.txt") == "kept"
    assert Sandbox.connect(stopped.sandbox_id, **own_service.client).files.read("kept.txt") == "stopped"
    assert [s.snapshot_id for s in Sandbox.list_snapshots(**own_service.client).next_items()] == [snapshot.snapshot_id]
    own_service.down()
    own_service.up()
    made = Sandbox.create("mine", **own_service.client)
    assert made.files.read("kept.txt") == "kept"
    during = footprint(own_service)
    assert Sandbox.delete_snapshot("mine", **own_service.client) is True
    assert made.files.read("kept.txt") == "kept"
    own_service.down()
    assert remains(before, during, footprint(own_service)) == {}


def test_a_template_that_is_needed_is_not_deleted(service: Service) -> None:
    for earlier in service.get("/snapshots").json():  # those that are told of are few
        Sandbox.delete_snapshot(earlier["snapshotID"], **service.client)
    source = Sandbox.create("base", **service.client)
    snapshot = source.create_snapshot()
    source.kill()
    done = service.run("template", "delete", "base", check=False)
    assert done.returncode == 1
    assert snapshot.snapshot_id in done.stderr
    Sandbox.delete_snapshot(snapshot.snapshot_id, **service.client)


def test_what_cannot_be_captured_is_told(service: Service) -> None:
    sandbox = Sandbox.create("base", **service.client)
    with pytest.raises(SandboxException, match="name"):
        sandbox.create_snapshot(name="Not A Name")
    with pytest.raises(SandboxException, match="409"):
        sandbox.create_snapshot(name="base")
    sandbox.kill()
    with pytest.raises(SandboxException):
        sandbox.create_snapshot()
