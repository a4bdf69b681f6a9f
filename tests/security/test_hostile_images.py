"""Images made to be started: what the launcher, which is still root of the host then, finds in the place of the paths
that it mounts over and writes to. A start either fails cleanly or stays inside; the host is never touched."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cube.cubelet.storage.manifest import Manifest
from cube.model.errors import CubeError
from cube.model.resources import Resources
from cube.model.template import ImageConfig, Template
from security.ground import Box, Ground

RESOURCES = Resources(cpu_count=1, memory_mb=128, disk_mb=32, pids=64, open_files=512)
DIRECTORIES = ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "home/user", "usr/bin", "run")
PASSWD = "root:x:0:0::/root:/bin/bash\nuser:x:1000:1000::/home/user:/bin/bash\n"
APPLETS = ("sh", "cat", "ls", "mount", "id", "echo", "test", "readlink", "stat", "dd", "true", "touch", "find")
Change = Callable[[Path], None]


def link(name: str, target: str) -> Change:
    """An image that has a symbolic link at ``name``, whatever was there."""

    def change(tree: Path) -> None:
        place = tree / name
        if place.is_dir() and not place.is_symlink():
            subprocess.run(["rm", "-rf", place], check=True)
        place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    return change


def node(name: str, kind: int, major: int = 0, minor: int = 0, mode: int = 0o666) -> Change:
    """An image that has a device or a pipe at ``name``."""

    def change(tree: Path) -> None:
        (tree / name).unlink(missing_ok=True)
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(tree / name, kind | mode, os.makedev(major, minor))

    return change


def content(name: str, data: bytes) -> Change:
    def change(tree: Path) -> None:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)

    return change


def directory(name: str) -> Change:
    def change(tree: Path) -> None:
        (tree / name).unlink(missing_ok=True)
        (tree / name).mkdir(parents=True)

    return change


def missing(name: str) -> Change:
    return lambda tree: (tree / name).rmdir()


def both(*changes: Change) -> Change:
    def change(tree: Path) -> None:
        for one in changes:
            one(tree)

    return change


def build(ground: Ground, place: Path, number: int, change: Change) -> str:
    """Make and install the image; returns the template's id."""
    tree = place / "tree"
    for name in DIRECTORIES:
        (tree / name).mkdir(parents=True)
    for path, data in {"etc/passwd": PASSWD, "etc/group": "root:x:0:\n", "usr/bin/sudo": ""}.items():
        (tree / path).write_text(data)
    (tree / "usr/bin/sudo").chmod(0o755)
    for source, target in (("/bin/busybox", "bin/busybox"), ("/bin/bash-static", "bin/bash")):
        subprocess.run(["cp", source, tree / target], check=True)
    for applet in APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")
    change(tree)
    image = place / "image"
    subprocess.run(["mkfs.erofs", "--quiet", image, tree], check=True, capture_output=True)
    template = Template(
        template_id=f"tpl-hostile{number}",
        names=(f"hostile{number}",),
        image="image.erofs",
        image_bytes=1,
        fingerprint=f"hostile{number}",
        created_at=datetime.now(UTC),
        config=ImageConfig(user="user", sudo_users=("user",)),
        resources=RESOURCES,
    )
    ground.images.install(Manifest(template), image)
    return template.template_id


IMAGES: dict[str, Change] = {
    # CVE-2025-52881, CVE-2019-16884, CVE-2023-27561: /proc is not where it seems, and writes go elsewhere.
    "/proc is a link to /etc": link("proc", "/etc"),
    "/proc is a link to the root": link("proc", "/"),
    "/proc leads out by dots": link("proc", "../../../../../../CANARY"),
    "/proc leads out absolutely": link("proc", "CANARY"),
    "/proc is a link to /dev": link("proc", "/dev"),
    "/proc is a link into /sys": link("proc", "/sys/kernel"),
    "/proc is a link to itself": link("proc", "proc"),
    "/proc is a file": both(missing("proc"), content("proc", b"x")),
    "/proc is missing": missing("proc"),
    "/sys is a link to /proc": link("sys", "/proc"),
    "/sys is a link to /proc/sys": link("sys", "/proc/sys"),
    "/sys leads out": link("sys", "CANARY"),
    # CVE-2025-31133: the /dev/null that masks are made of. CVE-2025-52565: /dev/console and /dev/pts/N.
    "/dev is a link to /tmp": link("dev", "/tmp"),
    "/dev is a link to /proc": link("dev", "/proc"),
    "/dev is a link to a magic link": link("dev", "/proc/self/fd"),
    "/dev leads out": link("dev", "CANARY"),
    "/dev/null leads out": link("dev/null", "CANARY/secret"),
    "/dev/console leads out": link("dev/console", "CANARY/secret"),
    "/dev/pts leads out": link("dev/pts", "CANARY"),
    "/dev/shm leads out": link("dev/shm", "CANARY"),
    "/dev/null is the memory": node("dev/null", stat.S_IFCHR, 1, 1),
    # CVE-2018-15664 and CVE-2021-30465: what is written or bound to is a link.
    "/etc is a link to /proc": link("etc", "/proc"),
    "/etc leads out": link("etc", "CANARY"),
    "/etc leads out by a magic link": link("etc", "/proc/1/root/CANARY"),
    "/etc/hosts leads out": link("etc/hosts", "CANARY/secret"),
    "/etc/resolv.conf leads out": link("etc/resolv.conf", "../../../../../../../CANARY/secret"),
    "/etc/hostname leads out by a descriptor": link("etc/hostname", "/proc/self/fd/3"),
    "/etc/machine-id is a pipe": node("etc/machine-id", stat.S_IFIFO),
    "/etc/hosts is a directory": directory("etc/hosts"),
    "/etc/hosts is a disk": node("etc/hosts", stat.S_IFBLK, 254, 0),
    "/usr/bin/sudo leads out": link("usr/bin/sudo", "CANARY/secret"),
    "/usr/bin/sudo is a link to /dev/null": link("usr/bin/sudo", "/dev/null"),
    "/usr/bin/sudo is a link to a masked path": link("usr/bin/sudo", "/proc/keys"),
    "/usr/bin/sudo is a link to /proc/sys": link("usr/bin/sudo", "/proc/sys"),
    "/usr/bin/sudo is a link to process 1": link("usr/bin/sudo", "/proc/1/exe"),
    "/usr/bin/sudo is a directory": directory("usr/bin/sudo"),
    "/usr/bin leads out": link("usr/bin", "CANARY"),
    "/usr leads out": link("usr", "CANARY"),
    "/run leads out": link("run", "CANARY"),
    # Who may use sudo is read from the image on the host.
    "/etc/passwd is a pipe": node("etc/passwd", stat.S_IFIFO),
    "/etc/passwd leads out": link("etc/passwd", "CANARY/secret"),
    "/etc/passwd is a directory": directory("etc/passwd"),
    "/etc/passwd is a disk": node("etc/passwd", stat.S_IFBLK, 254, 0),
    "/etc/passwd is huge": content("etc/passwd", b"user:x:1:1:" + b"x" * (10 << 20)),
    "/etc/passwd has a number of many digits": content("etc/passwd", b"user:x:" + b"9" * 100_000 + b":0::/:/bin/sh\n"),
    "/etc/passwd has a number that is too large": content("etc/passwd", b"user:x:99999999999:0::/:/bin/sh\n"),
    "/etc/passwd has other digits": content("etc/passwd", "user:x:٣٣:0::/:/bin/sh\n".encode()),
    "/etc/passwd gives sudo to everybody": content("etc/passwd", b"user:x:0:0::/:/bin/sh\n" * 100_000),
    "/etc/passwd is no text": content("etc/passwd", os.urandom(4096)),
}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that images lead to; at the end it is as it was."""
    place = tmp_path / "canary"
    place.mkdir()
    place.chmod(0o777)
    (place / "secret").write_text("of the host")
    yield place
    assert [entry.name for entry in place.iterdir()] == ["secret"]
    assert (place / "secret").read_text() == "of the host"
    assert not os.path.ismount(place)


@pytest.fixture
def hostile(ground: Ground, tmp_path: Path, canary: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Template of the image that the test's parameter names; deleted afterwards, so nothing uses it any more."""

    def change(tree: Path) -> None:
        request.param[1](tree)
        for directory, names, files in os.walk(tree):
            for entry in (Path(directory, name) for name in names + files):
                if entry.is_symlink() and "CANARY" in (target := os.readlink(entry)):
                    entry.unlink()
                    entry.symlink_to(target.replace("CANARY", str(canary)))

    template_id = build(ground, tmp_path, request.param[0], change)
    yield template_id
    ground.images.unmount_all()
    ground.images.delete(template_id)


def mounts(ground: Ground) -> list[str]:
    """Where this instance has mounted something, but for images."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    ours = str(ground.settings.state_dir.parent)
    return sorted(point for point in points if point.startswith(ours) and "/images/" not in point)


@pytest.mark.parametrize("hostile", [(970, lambda _: None)], ids=["plain"], indirect=True)
def test_a_plain_image_starts(ground: Ground, hostile: str) -> None:
    """So that the rows below fail to start for what is special about them, if they do."""
    with ground.sandbox(hostile, RESOURCES) as box:
        assert box.run("/bin/id", "-un", user="user").stdout == "user\n"
        assert box.run("sudo", "/bin/id", "-u", user="user").stdout == "0\n"


@pytest.mark.parametrize("hostile", list(enumerate(IMAGES.values())), ids=IMAGES, indirect=True)
def test_an_image_is_started_inside_or_not_at_all(ground: Ground, hostile: str) -> None:
    """See the names; whatever happens, a good sandbox starts after it and no mount of the host has changed."""
    before = mounts(ground)
    nodes = {path: os.lstat(path).st_rdev for path in ("/dev/null", "/dev/zero", "/dev/tty")}
    with contextlib.suppress(CubeError), ground.sandbox(hostile, RESOURCES) as box:
        _looks_as_it_should(box)
    assert mounts(ground) == before
    assert {path: os.lstat(path).st_rdev for path in nodes} == nodes
    with ground.sandbox() as box:
        assert box.shell("echo fine") == "fine"


def _looks_as_it_should(box: Box) -> None:
    """What must hold in a sandbox that did start: masks, no devices, nothing of the host in sight."""
    try:
        done = box.run(
            "/bin/sh", "-c", "cat /proc/self/mountinfo; cat /proc/1/root/etc/shadow /proc/keys /dev/mem", seconds=10
        )
    except CubeError:
        return
    lines = [line for line in done.stdout.splitlines() if " - " in line]
    for line in lines:
        kind = line.split(" - ")[1].split()[0]
        # Our own program, read-only, may be wherever the image says that sudo is.
        ours = line.split()[3].endswith("/cube-init") and "ro" in line.split()[5].split(",")
        assert ours or kind in ("overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue"), line
        assert kind != "sysfs" or "ro" in line.split()[5].split(","), line
    proc = [line.split()[4] for line in lines if " - proc " in line]
    if proc:
        root = proc[0]
        assert (
            box.run("/bin/sh", "-c", f"echo 1 > {root}/sys/vm/drop_caches || echo 1 > /proc/sys/vm/drop_caches").exit
            != 0
        )
        shown = box.run("/bin/sh", "-c", f"cat {root}/keys {root}/timer_list 2>/dev/null").stdout
        assert shown == "" or shown.startswith("\x7fELF")


DEVICES = {"memory": (stat.S_IFCHR, 1, 1), "disk": (stat.S_IFBLK, 254, 0), "kmsg": (stat.S_IFCHR, 1, 11)}


@pytest.mark.parametrize(
    "hostile",
    [(900 + number, node("home/device", *numbers)) for number, numbers in enumerate(DEVICES.values())],
    ids=DEVICES,
    indirect=True,
)
def test_device_nodes_of_an_image_open_nothing(ground: Ground, hostile: str) -> None:
    """A disk's node in a layer (the tar or Dockerfile said so): the root is mounted without devices."""
    with ground.sandbox(hostile, RESOURCES) as box:
        assert box.run("/bin/stat", "-c", "%F", "/home/device").stdout.strip() in (
            "character special file",
            "block special file",
        )
        done = box.run(
            "/bin/sh",
            "-c",
            "cp /home/device /tmp/x || dd if=/home/device count=1 || ln /home/device /tmp/d && cat /tmp/d",
        )
        assert done.exit != 0
        assert "ermission denied" in done.stderr or "not permitted" in done.stderr or "No such device" in done.stderr


def _set_uid(tree: Path) -> None:
    (tree / "bin/bash").chmod(0o6755)
    subprocess.run(["setcap", "cap_dac_override,cap_setuid=eip", tree / "bin/busybox"], check=False)


@pytest.mark.parametrize("hostile", [(950, _set_uid)], ids=["set-uid bash"], indirect=True)
def test_set_uid_programs_of_an_image_give_nothing(ground: Ground, hostile: str) -> None:
    """Neither by mode (the image is shown nosuid, and no_new_privs) nor by file capabilities."""
    with ground.sandbox(hostile, RESOURCES) as box:
        assert box.run("/bin/bash", "-p", "-c", "echo $UID $EUID", user="user").stdout == "1000 1000\n"
        assert box.run("/bin/cat", "/proc/self/status", user="user").stdout.count("\t0000000000000000") >= 4


def _closed(tree: Path) -> None:
    for name in ("etc", "proc", "dev", "tmp"):
        (tree / name).chmod(0)
    tree.chmod(0)


@pytest.mark.parametrize("hostile", [(960, _closed)], ids=["mode 0"], indirect=True)
def test_an_image_without_any_permission_starts(ground: Ground, hostile: str) -> None:
    """Directories of mode 0: no reason to fail for the launcher, which is root."""
    with ground.sandbox(hostile, RESOURCES) as box:
        assert box.run("/bin/id", "-u").stdout == "0\n"
