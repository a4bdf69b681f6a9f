"""Out of the namespaces, or into new ones where more is allowed."""

from __future__ import annotations

import fcntl
import os
import sys

import pytest

from cube.cubelet.runtime.container.rootfs import MASKED, READ_ONLY
from security.ground import Box

#: clone(2): user, mount, pid, net, ipc, uts, cgroup, time.
NAMESPACES = {
    "user": 0x1000_0000,
    "mnt": 0x0002_0000,
    "pid": 0x2000_0000,
    "net": 0x4000_0000,
    "ipc": 0x0800_0000,
    "uts": 0x0400_0000,
    "cgroup": 0x0200_0000,
    "time": 0x80,
}
USERS = ("root", "user")
EVERY = pytest.mark.parametrize("flag", NAMESPACES.values(), ids=NAMESPACES)
BOTH = pytest.mark.parametrize("user", USERS)


@BOTH
@EVERY
def test_unshare(sandbox: Box, flag: int, user: str) -> None:
    """A namespace of its own gives a full set of capabilities over it: the door to most kernel holes since 2013."""
    assert sandbox.probe(f"tell(child(call, 'unshare', {flag}))", user) == "EPERM"


@BOTH
@EVERY
def test_clone(sandbox: Box, flag: int, user: str) -> None:
    """The same by clone, whose flags the filter can see."""
    if flag == NAMESPACES["time"]:
        pytest.skip("in clone this bit belongs to the exit signal; only clone3 and unshare take it")
    assert sandbox.probe(f"tell(child(call, 'clone', {flag} | 17, 0, 0, 0, 0))", user) == "EPERM"


@BOTH
@EVERY
def test_clone3(sandbox: Box, flag: int, user: str) -> None:
    """The same by clone3, whose flags lie in memory where no filter sees them."""
    assert sandbox.probe(f"""
arguments = struct.pack('<11Q', {flag}, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
tell(child(call, 'clone3', arguments, len(arguments)))
""", user) == "ENOSYS"  # fmt: skip


@BOTH
def test_setns_into_every_namespace_that_can_be_named(sandbox: Box, user: str) -> None:
    """/proc/<pid>/ns of process 1 and of oneself, and a pidfd (Linux 5.8): no way back into a namespace of the host."""
    outcomes = sandbox.probe("""
def enter(path):
    call('setns', os.open(path, os.O_RDONLY), 0)
def by_pidfd(flags):
    call('setns', os.pidfd_open(1), flags)
found = [child(enter, f'/proc/{who}/ns/{name}') for who in (1, 'self') for name in os.listdir('/proc/self/ns')]
tell(found + [child(by_pidfd, flag) for flag in (0x20000, 0x40000000, 0x10000000)])
""", user)  # fmt: skip
    assert set(outcomes) <= {"EPERM", "EACCES"}, outcomes
    assert len(outcomes) > 20


def test_namespaces_are_owned_by_the_host(sandbox: Box) -> None:
    """The reason why the rows here hold even without a filter: root inside has no capability over its namespaces."""
    owners = set()
    for name in ("mnt", "net", "ipc", "uts", "pid", "cgroup"):
        fd = os.open(f"/proc/{sandbox.pid}/ns/{name}", os.O_RDONLY)
        owner = fcntl.ioctl(fd, 0xB701)  # NS_GET_USERNS
        owners.add(os.fstat(owner).st_ino)
        os.close(owner)
        os.close(fd)
    assert owners == {os.stat("/proc/self/ns/user").st_ino}


def test_the_user_namespace_is_owned_by_the_ids_of_the_seat(sandbox: Box) -> None:
    """The kernel charges inotify, message queues and signals of a user namespace to its owner, too: with one owner for
    all, one sandbox could use up what the host and the others need. See user_namespaces(7) and namespaces' ucounts."""
    fd = os.open(f"/proc/{sandbox.pid}/ns/user", os.O_RDONLY)
    owner = fcntl.ioctl(fd, 0xB704, bytes(4))  # NS_GET_OWNER_UID
    os.close(fd)
    assert int.from_bytes(owner, sys.byteorder) == sandbox.instance.seat.id_base


def test_the_owner_of_a_namespace_is_not_handed_out(sandbox: Box) -> None:
    """NS_GET_USERNS and NS_GET_PARENT on the own namespaces must not give a descriptor of one of the host."""
    assert sandbox.probe("""
import fcntl
def ask(name, request):
    fcntl.ioctl(os.open(f'/proc/self/ns/{name}', os.O_RDONLY), request)
tell([outcome(ask, *question) for question in (('net', 0xb701), ('mnt', 0xb701), ('user', 0xb702), ('pid', 0xb702))])
""") == ["EPERM"] * 4  # fmt: skip


MOUNTING = {
    "mount tmpfs": "call('mount', b'none', b'/mnt', b'tmpfs', 0, 0)",
    "mount proc": "call('mount', b'none', b'/mnt', b'proc', 0, 0)",
    "mount cgroup": "call('mount', b'none', b'/mnt', b'cgroup', 0, b'memory')",
    "mount overlay": "call('mount', b'none', b'/mnt', b'overlay', 0, b'lowerdir=/etc,upperdir=/tmp,workdir=/var')",
    "bind over /proc": "call('mount', b'/etc', b'/proc', 0, 4096, 0)",
    "bind over /etc/passwd": "call('mount', b'/etc/group', b'/etc/passwd', 0, 4096, 0)",
    "remount / rw": "call('mount', b'none', b'/', 0, 32, 0)",
    "remount /sys rw": "call('mount', b'none', b'/sys', 0, 32 | 4096, 0)",
    "remount /proc/sys rw": "call('mount', b'none', b'/proc/sys', 0, 32 | 4096, 0)",
    "make / shared": "call('mount', b'none', b'/', 0, 1 << 20, 0)",
    "move a mount": "call('mount', b'/dev/shm', b'/mnt', 0, 8192, 0)",
    "umount a mask": "call('umount2', b'/proc/keys', 2)",
    "umount /proc/sys": "call('umount2', b'/proc/sys', 2)",
    "umount /": "call('umount2', b'/', 2)",
    "pivot_root": "call('pivot_root', b'/', b'/mnt')",
    "fsopen": "call('fsopen', b'tmpfs', 0)",
    "fspick": "call('fspick', -100, b'/', 0)",
    "open_tree clone": "call('open_tree', -100, b'/', 1)",
    "open_tree": "call('open_tree', -100, b'/', 0)",
    "move_mount": "call('move_mount', -100, b'/dev/shm', -100, b'/mnt', 0)",
    "mount_setattr": "call('mount_setattr', -100, b'/sys', 0, struct.pack('<4Q', 0, 1, 0, 0), 32)",
}


@BOTH
@pytest.mark.parametrize("attack", MOUNTING.values(), ids=MOUNTING)
def test_mounting(sandbox: Box, attack: str, user: str) -> None:
    """Mounts are how masked paths are uncovered and host files system are reached; by old and new system calls."""
    assert sandbox.probe(f"tell(outcome(lambda: {attack}))", user) == "EPERM"


def test_read_only_mounts_are_read_only(sandbox: Box) -> None:
    """What is shown read-only cannot be written by root inside, whatever its permission bits say; and no mount but the
    root, whose set-uid programs no_new_privs makes powerless, honours set-uid bits."""
    mounts = sandbox.probe("tell(Path('/proc/self/mountinfo').read_text().splitlines())")
    options = {line.split()[4]: set(line.split()[5].split(",")) for line in mounts}
    expected = {path for path in READ_ONLY if os.path.exists(path)} | {"/sys", "/usr/bin/sudo"}
    assert all("ro" in options[path] for path in expected), options
    assert all("nosuid" in found for point, found in options.items() if point != "/"), options
    assert all("nodev" in found for point, found in options.items() if not _has_devices(point)), options


def _has_devices(point: str) -> bool:
    """Where our own device nodes lie, and the files that are covered with one."""
    return point in ("/dev", "/dev/pts") or point in MASKED


def test_the_double_chroot_stays_inside(sandbox: Box) -> None:
    """chroot escape of old: open /, chroot below, fchdir out, and climb. SYS_CHROOT is in the set, so it works as far
    as the root of the sandbox, which is the root of its mount namespace: there is nothing above."""
    assert sandbox.probe("""
out = os.open('/', os.O_RDONLY)
os.makedirs('/tmp/cell', exist_ok=True)
os.chroot('/tmp/cell')
os.fchdir(out)
for _ in range(64): os.chdir('..')
os.chroot('.')
tell([sorted(os.listdir('/')), os.path.exists('/opt/attack/probe.py')])
""") == [sorted(sandbox.shell("ls -A /").split()), True]  # fmt: skip


def test_chroot_is_not_for_the_user(sandbox: Box) -> None:
    """Without SYS_CHROOT a set-uid program could be misled; there are none, and no chroot either."""
    assert sandbox.probe("tell(outcome(os.chroot, '/tmp'))", "user") == "EPERM"
