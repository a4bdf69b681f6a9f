"""The whole service with machines for sandboxes, by the unmodified clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import AsyncSandbox, Sandbox
from e2b_code_interpreter import Sandbox as CodeSandbox

from support.images import builtin_templates
from support.service import Service
from support.vm_node import keep_between_runs

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

_PART = 10
_MORE = {"CUBE_RUNTIME": "microvm", "CUBE_WARM_POOL": "0", "CUBE_WARM_POOL_MAX": "2"}
#: What nothing that was started ahead has: such a sandbox is a clone that was made for this create.
_UNLIKE = {"allow_internet_access": False}


def make_service(directory: Path, part: int) -> Service:
    """Not started; what takes long to make is kept between runs."""
    state = directory / "state"
    templates = keep_between_runs(state)
    builtin_templates(templates)
    return Service(directory, templates, part, more=_MORE)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = make_service(tmp_path_factory.mktemp("microvm"), _PART)
    service.up()
    try:
        yield service
    finally:
        service.close()


def create(service: Service, template: str = "base", **more: object) -> Sandbox:
    return Sandbox.create(template, timeout=800, request_timeout=300, **more, **service.client)  # type: ignore[arg-type]


def create_with_code(service: Service, template: str = "code-interpreter-v1") -> CodeSandbox:
    return CodeSandbox.create(template, timeout=800, request_timeout=300, **_UNLIKE, **service.client)  # type: ignore[arg-type]


def test_it_says_what_it_is_and_runs_commands(service: Service) -> None:
    box = create(service, envs={"A": "b"})
    (shown,) = [one for one in service.get("/v2/sandboxes").json() if one["sandboxID"] == box.sandbox_id]
    assert (shown["runtime"], shown["isolation"]) == ("microvm", "emulated-vm")
    assert box.commands.run("echo $A; whoami; pwd").stdout == "b\nuser\n/home/user\n"
    box.files.write("dir/file.txt", "content")
    assert box.files.read("dir/file.txt") == "content"
    assert box.commands.run("sudo id -u", timeout=60).stdout == "0\n"
    box.kill()


def test_ports_are_reached_through_the_proxy(service: Service) -> None:
    box = create(service)
    box.files.write("www/index.html", "from the guest")
    box.commands.run("python3 -m http.server 8000 -d /home/user/www", background=True)
    box.commands.run("until echo > /dev/tcp/127.0.0.1/8000; do sleep 0.05; done 2>/dev/null", timeout=120)
    headers = {"e2b-sandbox-id": box.sandbox_id, "e2b-sandbox-port": "8000"}
    answer = httpx.get(f"{service.url}/index.html", headers=headers, timeout=60, trust_env=False)
    assert (answer.status_code, answer.text) == (200, "from the guest")
    box.kill()


def test_machines_are_shown_to_people(service: Service) -> None:
    box = create(service)
    (shown,) = [one for one in json.loads(service.run("vm", "ls", "--json").stdout) if one["sandbox"] == box.sandbox_id]
    assert shown["memory_bytes"] > 1 << 20
    found = json.loads(service.run("vm", "info", box.sandbox_id, "--json").stdout)
    assert (found["status"], found["balloon_bytes"]) == ("running", 1024 << 20)
    assert found["disks"].keys() == {"image", "layer"}
    assert found["network"].keys() == {"received_bytes", "sent_bytes"}
    assert {"fork", "guest"} <= found["start_ms"].keys()
    box.commands.run("echo said by root | sudo tee /dev/kmsg", timeout=60)
    assert json.loads(service.run("vm", "console", box.sandbox_id, "--json").stdout)["sandbox"] == box.sandbox_id
    box.kill()
    refused = service.run("vm", "info", box.sandbox_id, "--json", check=False)
    assert refused.returncode == 1
    assert box.sandbox_id in json.loads(refused.stdout)["error"]


def test_a_pause_frees_the_machine_and_a_connect_brings_it_back(service: Service) -> None:
    box = create(service)
    box.files.write("kept.txt", "kept")
    running = box.commands.run("while true; do date >> /home/user/ticks; sleep 0.2; done", background=True)
    box.pause()
    (shown,) = [one for one in service.get("/v2/sandboxes").json() if one["sandboxID"] == box.sandbox_id]
    assert shown["state"] == "paused"
    box.connect(timeout=600)
    assert box.files.read("kept.txt") == "kept"
    assert running.pid in [process.pid for process in box.commands.list()]
    box.kill()


def test_snapshots_forks_and_rollback(service: Service) -> None:
    box = create(service)
    box.files.write("f.txt", "then")
    snapshot = box.create_snapshot(request_timeout=300)
    box.files.write("f.txt", "later")
    copy = create(service, snapshot.snapshot_id)
    assert copy.files.read("f.txt") == "then"
    assert box.files.read("f.txt") == "later"
    url = f"{service.url}/sandboxes/{box.sandbox_id}/rollback"
    answer = httpx.post(url, json={"snapshotID": snapshot.snapshot_id}, timeout=300, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert box.files.read("f.txt") == "then"
    ids = {one.commands.run("cat /etc/machine-id").stdout for one in (box, copy)}
    assert len(ids) == 2
    Sandbox.delete_snapshot(snapshot.snapshot_id, **service.client)
    assert copy.files.read("f.txt") == "then"
    for one in (box, copy):
        one.kill()


_DRAW = """
import os, random, ssl, uuid
def hello():
    sent = ssl.MemoryBIO()
    try:
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="example.test").do_handshake()
    except ssl.SSLWantReadError:
        return sent.read().hex()
def draw():
    return "|".join([str(random.random()), str(uuid.uuid4()), hello(), os.urandom(8).hex()])
"""


def test_three_clones_of_one_memory_draw_nothing_twice(service: Service) -> None:
    """Random numbers of Python, ids, the hello of TLS: of an interpreter that was warm when it was copied."""
    source = create_with_code(service)
    source.run_code(_DRAW + "draw(); marker = 'copied'", timeout=120)
    snapshot = source.create_snapshot(request_timeout=300)
    clones = [create_with_code(service, snapshot.snapshot_id) for _ in range(3)]
    drawn = []
    for box in (source, *clones):
        answer = box.run_code("marker + '|' + draw()", timeout=120)
        assert answer.error is None, answer.error
        drawn.append(str(answer.text).strip("'").split("|"))
    assert {words[0] for words in drawn} == {"copied"}
    for number, what in enumerate(("random", "uuid4", "TLS hello", "urandom"), 1):
        assert len({words[number] for words in drawn}) == 4, what
    for box in (source, *clones):
        box.kill()
    Sandbox.delete_snapshot(snapshot.snapshot_id, **service.client)


#: Asks the resolver, over one connection that it thereby keeps, until something happens to it.
_ASK = """
import socket
gateway = open("/etc/resolv.conf").read().split()[1]
question = bytes.fromhex("001101000001000000000000") + b"\\0" + bytes.fromhex("00020001")
question = len(question).to_bytes(2, "big") + question
connection = socket.create_connection((gateway, 53), 60)
connection.settimeout(1)
open("connected", "w").close()
said = ""
while not said:
    try:
        connection.sendall(question)
        said = "" if connection.recv(4096) else "closed"
    except TimeoutError:
        pass
    except OSError as error:
        said = type(error).__name__
open("end", "w").write(said)
"""


async def test_fifty_creates_at_once_all_answer(service: Service) -> None:
    """They wait for their turn; nobody's machine is given up for want of time."""

    async def made(number: int) -> AsyncSandbox:
        metadata = {"number": str(number)}
        return await AsyncSandbox.create("base", metadata=metadata, timeout=800, request_timeout=600, **service.client)  # type: ignore[arg-type]

    boxes = await asyncio.gather(*(made(number) for number in range(50)))
    try:
        answers = await asyncio.gather(*(box.commands.run("hostname", timeout=300) for box in boxes))
        assert [answer.stdout.strip() for answer in answers] == [box.sandbox_id for box in boxes]
    finally:
        await asyncio.gather(*(box.kill(request_timeout=300) for box in boxes))


def test_a_copy_has_none_of_the_connections_of_its_memory(service: Service) -> None:
    """They are ended in the copy alone: the source's peer, and the source, notice nothing."""
    source = create(service)
    source.files.write("ask.py", _ASK)
    source.commands.run("python3 ask.py", background=True)
    source.commands.run("until [ -e connected ]; do sleep 0.05; done", timeout=120)
    snapshot = source.create_snapshot(request_timeout=300)
    copy = create(service, snapshot.snapshot_id)
    copy.commands.run("until [ -s end ]; do sleep 0.05; done", timeout=120)
    assert copy.files.read("end") == "ConnectionAbortedError"
    assert not source.files.exists("end")
    for box in (source, copy):
        box.kill()
    Sandbox.delete_snapshot(snapshot.snapshot_id, **service.client)


def test_clones_of_a_template_have_its_interpreter_and_nothing_else_in_common(service: Service) -> None:
    """The template's memory has a kernel in it that has run nothing: executions are counted from 1."""
    clones = [create_with_code(service) for _ in range(3)]
    executions = [
        box.run_code("import random, uuid; f'{random.random()} {uuid.uuid4()}'", timeout=120) for box in clones
    ]
    assert [one.execution_count for one in executions] == [1, 1, 1]
    assert len({str(one.text).split()[0] for one in executions}) == 3
    assert len({str(one.text).split()[1] for one in executions}) == 3
    for box in clones:
        box.kill()
