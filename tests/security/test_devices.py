"""Device nodes: the shortest way from root in a container to the disks and memory of the host."""

from __future__ import annotations

import stat

import pytest

from cube.cubelet.runtime.container.rootfs import DEVICES
from security.ground import Box

EXPECTED = {*(name for name, _, _ in DEVICES), "fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm", "mqueue"}
#: Documentation/admin-guide/devices.txt.
DANGEROUS = {
    "mem": (stat.S_IFCHR, 1, 1),
    "kmem": (stat.S_IFCHR, 1, 2),
    "port": (stat.S_IFCHR, 1, 4),
    "kmsg": (stat.S_IFCHR, 1, 11),
    "console": (stat.S_IFCHR, 5, 1),
    "tty0": (stat.S_IFCHR, 4, 0),
    "ttyS0": (stat.S_IFCHR, 4, 64),
    "kvm": (stat.S_IFCHR, 10, 232),
    "tun": (stat.S_IFCHR, 10, 200),
    "fuse": (stat.S_IFCHR, 10, 229),
    "loop-control": (stat.S_IFCHR, 10, 237),
    "userfaultfd": (stat.S_IFCHR, 10, 126),
    "vhost-net": (stat.S_IFCHR, 10, 238),
    "vsock": (stat.S_IFCHR, 10, 121),
    "mapper/control": (stat.S_IFCHR, 10, 236),
    "loop0": (stat.S_IFBLK, 7, 0),
    "vda": (stat.S_IFBLK, 254, 0),
    "sda": (stat.S_IFBLK, 8, 0),
    "zram0": (stat.S_IFBLK, 253, 0),
    "ram0": (stat.S_IFBLK, 1, 0),
}
DIRECTORIES = (
    "/dev",
    "/dev/shm",
    "/dev/pts",
    "/dev/mqueue",
    "/tmp",
    "/run",
    "/root",
    "/home/user",
    "/proc",
    "/sys",
    "/",
)


def test_dev_holds_exactly_what_is_meant_to_be_there(sandbox: Box) -> None:
    """Everything that is here is reachable by anybody's code: the list is the policy."""
    assert set(sandbox.shell("ls -A /dev").split()) == EXPECTED


def test_only_the_harmless_nodes_are_devices(sandbox: Box) -> None:
    """By number and not by name: an innocent name can be any device."""
    found = sandbox.probe("""
import stat
nodes = []
for directory, _, files in os.walk('/', onerror=None):
    if directory.startswith(('/proc/', '/sys')): continue
    for name in files:
        entry = os.lstat(os.path.join(directory, name))
        if stat.S_ISCHR(entry.st_mode) or stat.S_ISBLK(entry.st_mode):
            nodes.append([os.major(entry.st_rdev), os.minor(entry.st_rdev), stat.S_ISBLK(entry.st_mode)])
tell(nodes)
""", seconds=60)  # fmt: skip
    harmless = {(major, minor, False) for _, major, minor in DEVICES} | {(5, 2, False)}
    assert {tuple(node) for node in found} <= harmless


@pytest.mark.parametrize("node", DANGEROUS.values(), ids=DANGEROUS)
@pytest.mark.parametrize("user", ["root", "user"])
def test_no_device_can_be_made(sandbox: Box, node: tuple[int, int, int], user: str) -> None:
    """mknod in every kind of directory (the tmpfs of /dev has no nodev); without CAP_MKNOD in the host's namespace the
    kernel refuses all but pipes, sockets and the overlay's 0:0."""
    kind, major, minor = node
    outcomes = sandbox.probe(f"""
def make(directory):
    path = directory + '/node'
    os.mknod(path, {kind} | 0o666, os.makedev({major}, {minor}))
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
tell({{directory: outcome(make, directory) for directory in {DIRECTORIES!r}}})
""", user)  # fmt: skip
    assert set(outcomes.values()) <= {"EPERM", "EACCES", "EROFS", "ENOENT"}, outcomes


def test_the_whiteout_device_opens_nothing(sandbox: Box) -> None:
    """0:0 may be made by anybody since Linux 5.8, for overlays; it must be no device when opened."""
    assert sandbox.probe("""
def make():
    os.mknod('/tmp/white', 0o020666, 0)
    os.close(os.open('/tmp/white', os.O_RDONLY))
tell(outcome(make))
""") in ("EPERM", "ENXIO", "EACCES", "ENOENT")  # fmt: skip


@pytest.mark.parametrize(
    "name", ["mem", "kvm", "net/tun", "loop-control", "fuse", "vda", "sda", "loop0", "kmsg", "console"]
)
def test_devices_of_the_host_are_absent(sandbox: Box, name: str) -> None:
    """Not even as names."""
    assert sandbox.probe(f"tell(os.path.lexists('/dev/{name}'))") is False


def test_the_tty_of_the_service_is_not_ours(sandbox: Box) -> None:
    """/dev/tty is the controlling terminal of whoever opens it: a spawned process has none."""
    assert sandbox.probe("tell(outcome(os.open, '/dev/tty', os.O_RDWR))") == "ENXIO"


def test_terminals_of_the_host_have_no_name(sandbox: Box) -> None:
    """devpts is an instance of its own: numbers begin at 0 again and lead to terminals inside."""
    assert sandbox.shell("ls -A /dev/pts") == "ptmx"
    with sandbox.terminal("/bin/sleep", "30"):
        assert sandbox.shell("ls -A /dev/pts").split() == ["0", "ptmx"]


def test_random_takes_no_entropy_away_from_others(sandbox: Box) -> None:
    """RNDADDTOENTCNT, RNDZAPENTCNT and RNDCLEARPOOL need a capability over the host."""
    requests = {"RNDADDTOENTCNT": 0x40045201, "RNDZAPENTCNT": 0x5204, "RNDCLEARPOOL": 0x5206, "RNDRESEEDCRNG": 0x5207}
    outcomes = sandbox.probe(f"""
fd = os.open('/dev/random', os.O_RDWR)
tell([attempt('ioctl', fd, number, struct.pack('<i', 1)) for number in {list(requests.values())!r}])
""")  # fmt: skip
    assert outcomes == ["EPERM"] * 4
