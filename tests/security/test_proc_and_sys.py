"""/proc and /sys: the host's kernel seen and turned through files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cube.cubelet.runtime.container.rootfs import MASKED, READ_ONLY
from security.ground import Box

BOTH = pytest.mark.parametrize("user", ["root", "user"])


@BOTH
@pytest.mark.parametrize("path", MASKED)
def test_masked_paths_are_empty(sandbox: Box, path: str, user: str) -> None:
    """The paths that container engines hide: memory, keys, interrupts, firmware (CVE-2018-... /proc/acpi) and so on."""
    assert sandbox.probe(f"""
path = Path({path!r})
tell(path.exists() and (os.listdir(path) if path.is_dir() else readable(path)) or None)
""", user) is None  # fmt: skip


@BOTH
@pytest.mark.parametrize("path", MASKED)
def test_masked_paths_stay_masked(sandbox: Box, path: str, user: str) -> None:
    """Renaming, removing or linking over a mask: a mount point can be none of that."""
    if not os.path.exists(path):
        pytest.skip("this kernel does not have it")
    outcomes = sandbox.probe(f"""
tell([outcome(os.unlink, {path!r}), outcome(os.rename, {path!r}, '/tmp/away'), outcome(os.rmdir, {path!r})])
""", user)  # fmt: skip
    assert "ok" not in outcomes


@BOTH
def test_nothing_in_proc_or_sys_is_writable(sandbox: Box, user: str) -> None:
    """All files of all of /proc (but the own processes') and /sys, opened for writing: none, but the masks, which are
    null devices. Found by trying, so that a new file of a new kernel is found, too."""
    found = sandbox.probe("""
import stat
def opens(path):
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode): return False
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return True
    except OSError:
        return False
found = []
for top in ('/proc', '/sys'):
    for directory, names, files in os.walk(top):
        names[:] = [name for name in names if not (directory == '/proc' and (name.isdecimal() or 'self' in name))]
        found += [path for name in files if opens(path := os.path.join(directory, name))]
tell(found)
""", user, seconds=60)  # fmt: skip
    assert found == []


WRITES = {
    "core_pattern": ("/proc/sys/kernel/core_pattern", "|/tmp/x"),
    "modprobe": ("/proc/sys/kernel/modprobe", "/tmp/x"),
    "hotplug": ("/proc/sys/kernel/hotplug", "/tmp/x"),
    "panic": ("/proc/sys/kernel/panic", "1"),
    "panic_on_oom": ("/proc/sys/vm/panic_on_oom", "2"),
    "overcommit": ("/proc/sys/vm/overcommit_memory", "2"),
    "drop_caches": ("/proc/sys/vm/drop_caches", "3"),
    "ns_last_pid": ("/proc/sys/kernel/ns_last_pid", "1"),
    "pid_max": ("/proc/sys/kernel/pid_max", "400"),
    "shmmax": ("/proc/sys/kernel/shmmax", "1"),
    "msg_max of mqueue": ("/proc/sys/fs/mqueue/msg_max", "65536"),
    "binfmt_misc": ("/proc/sys/fs/binfmt_misc/register", ":x:M::x::/bin/sh:"),
    "ip_forward": ("/proc/sys/net/ipv4/ip_forward", "1"),
    "unprivileged ports": ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "1"),
    "ping_group_range": ("/proc/sys/net/ipv4/ping_group_range", "0 1"),
    "user namespaces": ("/proc/sys/user/max_user_namespaces", "1"),
    "sysrq-trigger": ("/proc/sysrq-trigger", "b"),
    "mtrr": ("/proc/mtrr", "disable=0"),
    "irq affinity": ("/proc/irq/default_smp_affinity", "1"),
    "uevent_helper (CVE-2013-... escapes by hotplug)": ("/sys/kernel/uevent_helper", "/tmp/x"),
    "uevent": ("/sys/class/mem/null/uevent", "change"),
    "profiling": ("/sys/kernel/profiling", "1"),
    "power state": ("/sys/power/state", "mem"),
    "thp": ("/sys/kernel/mm/transparent_hugepage/enabled", "never"),
    "vda": ("/sys/block/vda/queue/scheduler", "none"),
    "panic by lockup": ("/proc/sys/kernel/hung_task_panic", "1"),
    "pressure trigger": ("/proc/pressure/memory", "some 150000 2000000"),
}


@pytest.mark.parametrize(("path", "value"), WRITES.values(), ids=WRITES)
def test_switches_of_the_kernel_cannot_be_turned(sandbox: Box, path: str, value: str) -> None:
    """Each of these has been somebody's way to run a program on the host as root, or to stop it."""
    assert sandbox.probe(f"""
def write():
    with open({path!r}, 'w') as file: file.write({value!r})
tell(outcome(write))
""") in ("EROFS", "EACCES", "EPERM", "ENOENT")  # fmt: skip
    if Path(path).is_file() and "core_pattern" in path:
        assert "/tmp/x" not in Path(path).read_text()


def test_no_release_agent(sandbox: Box) -> None:
    """CVE-2022-0492: with a cgroup v1 mount root inside sets release_agent, which the host runs as root. Here no cgroup
    file system is mounted, none can be, and nothing named like it can be opened."""
    assert sandbox.shell("grep -c ' - cgroup' /proc/self/mountinfo || true") == "0"
    assert sandbox.shell("find / -xdev -name 'release_agent' -o -name 'notify_on_release' 2>/dev/null || true") == ""
    assert sandbox.probe("""
tell([child(call, 'unshare', 0x12000000), attempt('mount', b'c', b'/mnt', b'cgroup', 0, b'rdma'),
      attempt('mount', b'c', b'/mnt', b'cgroup2', 0, 0)])
""") == ["EPERM"] * 3  # fmt: skip


def test_the_cgroup_of_the_host_has_no_name_inside(sandbox: Box) -> None:
    """/proc/self/cgroup would give the path that the release_agent escape needs: here it ends at the own root."""
    for line in sandbox.shell("cat /proc/1/cgroup /proc/self/cgroup").splitlines():
        assert line.endswith(":/"), line


def test_other_mounts_of_proc_and_sys_do_not_exist(sandbox: Box) -> None:
    """A second, unmasked proc or sysfs anywhere would undo the masks."""
    kinds = sandbox.probe("""
lines = [line.split() for line in Path('/proc/self/mountinfo').read_text().splitlines()]
tell([[line[4], line[line.index('-') + 1]] for line in lines])
""")  # fmt: skip
    proc = {point for point, kind in kinds if kind == "proc"}
    assert proc == {"/proc"} | {path for path in READ_ONLY if os.path.exists(path)}
    assert [point for point, kind in kinds if kind == "sysfs"] == ["/sys"]
    assert not {kind for _, kind in kinds} & {
        "cgroup",
        "cgroup2",
        "debugfs",
        "tracefs",
        "securityfs",
        "bpf",
        "devtmpfs",
    }


def test_kernel_addresses_are_hidden(sandbox: Box) -> None:
    """kallsyms, iomem and the kernel's notes: addresses are what an exploit of the kernel looks for first."""
    assert sandbox.shell("head -5 /proc/kallsyms | awk '{print $1}' | sort -u").strip("0") == ""
    assert set(sandbox.shell("awk '{print $1}' /proc/iomem | tr -d '0-' | sort -u")) <= {"\n"}
    assert not sandbox.probe("tell(readable('/proc/kcore') or readable('/dev/mem') or readable('/proc/kpagecount'))")


def test_a_watch_on_a_mask_does_not_tell_of_the_host(sandbox: Box) -> None:
    """Masks made of the host's /dev/null share its inode: a watch would see each use of /dev/null on the host, and
    many watches would slow every one of them down."""
    with sandbox.background("""
watch = call('inotify_init1', os.O_NONBLOCK)
for path in ('/proc/interrupts', '/proc/keys', '/dev/null', '/dev/zero', '/dev/tty'):
    if os.path.exists(path): call('inotify_add_watch', watch, path.encode(), 0xfff)
tell(1)
sys.stdin.readline()
tell(outcome(os.read, watch, 4096))
""") as watcher:  # fmt: skip
        for path in ("/dev/null", "/dev/zero"):
            os.close(os.open(path, os.O_RDWR))
        assert watcher.ask() == "EAGAIN"


def test_disks_of_other_sandboxes_are_not_counted_here(sandbox: Box) -> None:
    """/sys/fs/btrfs lists the writable layer of every sandbox with what it occupies."""
    assert sandbox.shell("find /sys/fs -path '*qgroups*' | head") == ""


@BOTH
@pytest.mark.parametrize(
    "path", ["/proc/1/environ", "/proc/kallsyms", "/sys/kernel/notes", "/proc/self/fd/0", "/dev/null"]
)
def test_no_hard_link_leads_out_of_a_mount(sandbox: Box, path: str, user: str) -> None:
    """A second name in the writable layer would outlive the mask above the first."""
    outcomes = sandbox.probe(f"""
fd = os.open({path!r}, os.O_PATH)
tell([outcome(os.link, {path!r}, '/tmp/second'), attempt('linkat', fd, b'', -100, b'/tmp/second', 0x1000),
      attempt('linkat', -100, f'/proc/self/fd/{{fd}}'.encode(), -100, b'/tmp/second', 0x400)])
""", user)  # fmt: skip
    assert "ok" not in outcomes, outcomes


def test_the_overlay_takes_no_orders_from_inside(sandbox: Box) -> None:
    """Attributes with which overlayfs redirects and hides directories; whoever sets them names paths of the layers
    below (CVE-2021-3493, CVE-2023-0386 by way of them)."""
    names = ("trusted.overlay.redirect", "trusted.overlay.opaque", "trusted.overlay.metacopy", "trusted.x")
    assert sandbox.probe(f"""
os.makedirs('/opt/order', exist_ok=True)
tell([outcome(os.setxattr, '/opt/order', name, b'/') for name in {names!r}])
""") == ["EPERM"] * 4  # fmt: skip
    sandbox.probe("outcome(os.setxattr, '/opt/order', 'user.overlay.redirect', b'/etc'); tell(0)")
    assert sandbox.shell("ls /opt/order") == ""
