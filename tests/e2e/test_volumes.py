"""Volumes through the unmodified E2B client, with sandboxes that mount them."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import AsyncVolume, CommandExitException, Sandbox, SandboxException, Volume
from e2b.exceptions import (
    AuthenticationException,
    VolumeException,
    VolumeNotFoundException,
    VolumePathNotFoundException,
)

from support.service import Service

pytestmark = pytest.mark.root

#: See :class:`support.service.Service`.
_PART = 5
MIB = 1 << 20
#: Of one volume.
QUOTA_MB = 64


@pytest.fixture(scope="module")
def service(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose volumes are small."""
    more = {"CUBE_VOLUME_QUOTA_MB": str(QUOTA_MB)}
    service = Service(tmp_path_factory.mktemp("volumes"), templates, _PART, more=more)
    service.up()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture(autouse=True)
def _client(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client reads where the content of volumes is from the environment alone."""
    for name, value in service.environment.items():
        if name.startswith("E2B_"):
            monkeypatch.setenv(name, value)


@pytest.fixture
def volume() -> Iterator[Volume]:
    volume = Volume.create(f"v-{uuid.uuid4().hex}")
    yield volume
    Volume.destroy(volume.volume_id)


def test_the_life_of_a_volume(service: Service) -> None:
    made = Volume.create("data")
    assert Volume.get_info(made.volume_id).token == made.token
    assert Volume.connect(made.volume_id).name == "data"
    assert [(info.volume_id, info.name) for info in Volume.list()] == [(made.volume_id, "data")]
    with pytest.raises(VolumeException, match="exists already"):
        Volume.create("data")
    assert Volume.destroy(made.volume_id)
    assert not Volume.destroy(made.volume_id)
    with pytest.raises(VolumeNotFoundException):
        Volume.get_info(made.volume_id)
    with pytest.raises(VolumePathNotFoundException):
        made.read_file("/x")
    assert Volume.list() == []


def test_files_of_a_volume(volume: Volume) -> None:
    entry = volume.write_file("/hello.txt", "Hällo")
    assert (entry.name, entry.type.value, entry.path, entry.size) == ("hello.txt", "file", "/hello.txt", 6)
    assert volume.read_file("/hello.txt") == "Hällo"
    assert volume.read_file("/hello.txt", format="bytes") == "Hällo".encode()
    with pytest.raises(VolumeException, match="409"):
        volume.write_file("/hello.txt", "other")
    assert volume.write_file("/hello.txt", b"\0\1", force=True).size == 2
    volume.write_file("/stream", io.BytesIO(b"x" * (3 * MIB)))
    assert sum(map(len, volume.read_file("/stream", format="stream"))) == 3 * MIB
    volume.write_file("/text", io.StringIO("täxt"))
    assert volume.read_file("/text") == "täxt"
    assert volume.exists("/text")
    volume.remove("/text")
    assert not volume.exists("/text")
    for attempt in (volume.remove, volume.read_file, volume.get_info, volume.list):
        with pytest.raises(VolumePathNotFoundException):
            attempt("/text")
    with pytest.raises(VolumePathNotFoundException):
        list(volume.read_file("/text", format="stream"))


def test_directories_and_owners_of_a_volume(volume: Volume) -> None:
    volume.make_dir("/a", uid=5, gid=6, mode=0o750)
    made = volume.get_info("/a")
    assert (made.type.value, made.uid, made.gid, made.mode) == ("directory", 5, 6, 0o750)
    with pytest.raises(VolumeException, match="409"):
        volume.make_dir("/a")
    with pytest.raises(VolumePathNotFoundException):
        volume.make_dir("/b/c")
    volume.make_dir("/b/c/d", force=True)
    volume.write_file("/b/c/file", "x", uid=1, gid=2, mode=0o640)
    assert volume.update_metadata("/b/c/file", mode=0o600).uid == 1
    assert [entry.path for entry in volume.list("/")] == ["/a", "/b"]
    assert [entry.path for entry in volume.list("/b", depth=3)] == ["/b/c", "/b/c/d", "/b/c/file"]
    with pytest.raises(VolumeException, match="depth"):
        volume.list("/", depth=11)
    volume.remove("/b")
    assert [entry.path for entry in volume.list("/", depth=10)] == ["/a"]


async def test_the_asynchronous_client() -> None:
    volume = await AsyncVolume.create(f"v-{uuid.uuid4().hex}")
    await asyncio.gather(*(volume.write_file(f"/{number}", str(number)) for number in range(20)))
    read = await asyncio.gather(*(volume.read_file(f"/{number}") for number in range(20)))
    assert read == [str(number) for number in range(20)]
    stream = await volume.read_file("/7", format="stream")
    assert [chunk async for chunk in stream] == [b"7"]
    assert await AsyncVolume.destroy(volume.volume_id)


def test_a_token_opens_one_volume(volume: Volume) -> None:
    other = Volume.create(f"v-{uuid.uuid4().hex}")
    with pytest.raises(AuthenticationException):
        Volume(volume.volume_id, volume.name, token=other.token).list("/")
    assert Volume.destroy(other.volume_id)


def test_several_sandboxes_share_a_volume(volume: Volume) -> None:
    volume.write_file("/given.txt", "from outside")
    with (
        Sandbox.create("base", volume_mounts={"/mnt/data": volume}) as first,
        Sandbox.create("code-interpreter-v1", volume_mounts={"/home/user/shared": volume.name}) as second,
    ):
        assert first.get_info().volume_mounts == [{"name": volume.name, "path": "/mnt/data"}]
        assert first.files.read("/mnt/data/given.txt") == "from outside"
        first.files.write("/mnt/data/made.txt", "by the first")
        first.commands.run("echo of root > /mnt/data/roots && chmod 600 /mnt/data/roots", user="root")
        assert second.files.read("shared/made.txt") == "by the first"
        owners = second.commands.run("stat -c '%n %u %g %a' *", cwd="/home/user/shared").stdout.splitlines()
        assert owners == ["given.txt 1000 1000 666", "made.txt 1000 1000 644", "roots 0 0 600"]
        with pytest.raises(CommandExitException, match="Permission denied"):
            second.commands.run("cat shared/roots", cwd="/home/user")
        second.commands.run("rm shared/made.txt; ln -s given.txt shared/link", cwd="/home/user")
        assert not first.files.exists("/mnt/data/made.txt")
    assert {entry.name: entry.type.value for entry in volume.list("/")} == {
        "given.txt": "file",
        "link": "symlink",
        "roots": "file",
    }
    assert volume.get_info("/link").target == "given.txt"
    assert volume.get_info("/roots").uid == 0


def test_content_stays_when_sandbox_service_and_machine_state_go(service: Service) -> None:
    volume = Volume.create("kept")
    sandbox = Sandbox.create("base", volume_mounts={"/mnt": volume})
    sandbox.commands.run("echo kept > /mnt/file")
    service.kill()
    service.up()
    sandbox.commands.run("echo again >> /mnt/file")
    sandbox.pause()
    Sandbox.connect(sandbox.sandbox_id).commands.run("echo resumed >> /mnt/file")
    with pytest.raises(VolumeException, match=r"409.*mounted"):
        Volume.destroy(volume.volume_id)
    service.down()
    service.up()
    volume = Volume.connect(volume.volume_id)
    assert volume.read_file("/file") == "kept\nagain\nresumed\n"
    with Sandbox.create("base", volume_mounts={"/mnt": "kept"}) as sandbox:
        assert sandbox.files.read("/mnt/file") == "kept\nagain\nresumed\n"
    assert Volume.destroy(volume.volume_id)


def test_a_volume_has_a_quota(volume: Volume) -> None:
    other = Volume.create(f"v-{uuid.uuid4().hex}")
    with Sandbox.create("base", volume_mounts={"/mnt/full": volume, "/mnt/other": other}) as sandbox:
        with pytest.raises(CommandExitException, match="quota"):
            sandbox.commands.run(f"dd if=/dev/zero of=/mnt/full/big bs=1M count={2 * QUOTA_MB}", user="root")
        with pytest.raises(VolumeException, match=r"507.*full"):
            volume.write_file("/more", b"x" * MIB)
        assert [entry.name for entry in volume.list("/")] == ["big"]
        sandbox.commands.run("dd if=/dev/zero of=/mnt/other/fine bs=1M count=16 && echo x > /home/user/fine")
        volume.remove("/big")
        volume.write_file("/more", b"x" * MIB)
    assert Volume.destroy(other.volume_id)


@pytest.mark.parametrize(
    ("mounts", "words"),
    [
        ({"/mnt": "no-such-volume"}, r"volumeMounts\[0\].name"),
        ({"relative": "v"}, "volumeMounts.0.path"),
        ({"/proc/x": "v"}, "nothing can be mounted"),
        ({"/a": "v", "/a/b": "v"}, "must not lie in each other"),
    ],
)
def test_what_cannot_be_mounted_is_said(mounts: dict[str, str], words: str) -> None:
    with pytest.raises(SandboxException, match=f"400.*{words}"):
        Sandbox.create("base", volume_mounts=mounts)


def test_an_upload_that_is_cut_off_leaves_nothing(service: Service, volume: Volume) -> None:
    volume.write_file("/old", "before")
    for path in ("/new", "/old"):
        head = (
            f"PUT /volumecontent/{volume.volume_id}/file?path={path}&force=true HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {volume.token}\r\nContent-Length: {16 * MIB}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(head.encode() + b"x" * (4 * MIB))
            wait_until(lambda: used(service, volume) > 2 * MIB)
        wait_until(lambda: used(service, volume) < MIB)
    assert volume.read_file("/old") == "before"
    assert [entry.name for entry in volume.list("/")] == ["old"]


def used(service: Service, volume: Volume) -> int:
    return int(service.get(f"/volumes/{volume.volume_id}").json()["usedBytes"])


def wait_until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"


def test_a_slow_reader_holds_nothing_up(service: Service, volume: Volume) -> None:
    volume.write_file("/big", io.BytesIO(b"x" * (48 * MIB)))
    url = f"{service.url}/volumecontent/{volume.volume_id}/file?path=/big"
    headers = {"Authorization": f"Bearer {volume.token}", "Accept-Encoding": "identity"}
    with httpx.stream("GET", url, headers=headers, trust_env=False, timeout=30) as slow:
        pieces = slow.iter_raw(MIB)
        next(pieces)
        before = memory(service)
        assert volume.get_info("/big").size == 48 * MIB
        assert memory(service) - before < 24 * MIB
        assert MIB + sum(map(len, pieces)) == 48 * MIB


def memory(service: Service) -> int:
    """What the service has in memory, in bytes."""
    return int(Path(f"/proc/{service.pid}/statm").read_text().split()[1]) * 4096


def test_the_commands(service: Service) -> None:
    volume = Volume.create("shown")
    volume.write_file("/file", b"x" * (2 * MIB))
    (shown,) = json.loads(service.run("volume", "list", "--json").stdout)
    assert (shown["volumeID"], shown["name"], shown["quotaBytes"]) == (volume.volume_id, "shown", QUOTA_MB * MIB)
    assert shown["usedBytes"] > 2 * MIB
    assert "token" not in shown
    assert "shown" in service.run("volume", "list").stdout
    with Sandbox.create("base", volume_mounts={"/mnt": "shown"}):
        refused = service.run("volume", "delete", "shown", "--json", check=False)
        assert refused.returncode == 1
        assert "409" in json.loads(refused.stdout)["error"]
    assert json.loads(service.run("volume", "delete", "shown", "--json").stdout)[0]["volumeID"] == volume.volume_id
    assert service.run("volume", "delete", "shown", check=False).returncode == 1
    assert json.loads(service.run("volume", "list", "--json").stdout) == []
