"""System calls that act on the kernel, the host or on other processes; most kernel exploits of recent years begin at
one of them."""

from __future__ import annotations

import os
import platform
import re

import pytest

from security.ground import Box

BOTH = pytest.mark.parametrize("user", ["root", "user"])

REFUSED = {
    "bpf": "call('bpf', 0, struct.pack('<IIII', 1, 4, 4, 1), 16)",
    "perf_event_open": "call('perf_event_open', bytes(112), 0, -1, -1, 0)",
    "userfaultfd": "call('userfaultfd', 1)",
    "add_key": "call('add_key', b'user', b'mine', b'x', 1, -3)",
    "request_key": "call('request_key', b'user', b'mine', 0, 0)",
    "keyctl": "call('keyctl', 0, -3, 1)",
    "io_uring_setup": "call('io_uring_setup', 8, bytes(120))",
    "kcmp": "call('kcmp', 1, os.getpid(), 0, 0, 0)",
    "kexec_load": "call('kexec_load', 0, 0, 0, 0)",
    "kexec_file_load": "call('kexec_file_load', -1, -1, 0, 0, 0)",
    "reboot": "call('reboot', 0xfee1dead - (1 << 32), 672274793, 0x89abcdef - (1 << 32), 0)",
    "init_module": "call('init_module', bytes(64), 64, b'')",
    "finit_module": "call('finit_module', 0, b'', 0)",
    "delete_module": "call('delete_module', b'x', 0)",
    "settimeofday": "call('settimeofday', struct.pack('<QQ', 1, 0), 0)",
    "clock_settime": "call('clock_settime', 0, struct.pack('<QQ', 1, 0))",
    "clock_adjtime": "call('clock_adjtime', 0, struct.pack('<IIq', 1, 0, 1) + bytes(192))",
    "adjtimex": "call('adjtimex', struct.pack('<IIq', 1, 0, 1) + bytes(192))",
    "sethostname": "call('sethostname', b'mine', 4)",
    "setdomainname": "call('setdomainname', b'mine', 4)",
    "syslog": "call('syslog', 3, ctypes.create_string_buffer(64), 64)",
    "swapon": "call('swapon', b'/tmp/x', 0)",
    "swapoff": "call('swapoff', b'/tmp/x')",
    "quotactl": "call('quotactl', 0x80000700, b'/dev/vda', 0, bytes(64))",
    "quotactl_fd": "call('quotactl_fd', 0, 0x80000700, 0, bytes(64))",
    "acct": "call('acct', b'/tmp/acct')",
    "vhangup": "call('vhangup')",
    "lookup_dcookie": "call('lookup_dcookie', 0, bytes(64), 64)",
    "fanotify_init": "call('fanotify_init', 0, 0)",
    "open_by_handle_at": "call('open_by_handle_at', -100, struct.pack('<IIQ', 8, 1, 2), 0)",
    "move_pages": "call('move_pages', 1, 0, 0, 0, 0, 0)",
    "migrate_pages": "call('migrate_pages', 1, 0, 0, 0)",
    "mbind": "call('mbind', 0, 0, 0, 0, 0, 0)",
    "set_mempolicy": "call('set_mempolicy', 0, 0, 0)",
    "process_madvise": "call('process_madvise', os.pidfd_open(1), 0, 0, 4, 0)",
    "pidfd_getfd": "call('pidfd_getfd', os.pidfd_open(1), 3, 0)",
    "nfsservctl": "call('nfsservctl', 0, 0, 0)",
    "uselib": "call('uselib', b'/bin/true')",
    "iopl": "call('iopl', 3)",
    "ioperm": "call('ioperm', 0, 1, 1)",
    "personality x32 layout": "call('personality', 0x0200000)",
    "personality READ_IMPLIES_EXEC": "call('personality', 0x0400000)",
}


@BOTH
@pytest.mark.parametrize("attack", REFUSED.values(), ids=REFUSED)
def test_refused_calls(sandbox: Box, attack: str, user: str) -> None:
    """Refused by the filter before the kernel looks at an argument (an unknown one gives ENOSYS)."""
    assert sandbox.probe(f"tell(outcome(lambda: {attack}))", user) in ("EPERM", "ENOSYS")


SOCKETS = {
    "packet": "17, 3, 0x0300",
    "packet datagram": "17, 2, 0x0300",
    "vsock": "40, 1, 0",
    "alg": "38, 5, 0",
    "xdp": "44, 3, 0",
    "key": "15, 3, 2",
    "can": "29, 3, 1",
    "bluetooth": "31, 3, 1",
    "nfc": "39, 3, 0",
    "rds": "21, 5, 0",
    "tipc": "30, 1, 0",
    "smc": "43, 1, 0",
    "kcm": "41, 5, 0",
    "qipcrtr": "42, 2, 0",
    "ax25": "3, 5, 0",
    "x25": "9, 5, 0",
    "appletalk": "5, 2, 0",
    "rxrpc": "33, 2, 2",
    "raw IPv4": "2, 3, 1",
    "raw IPv4 all": "2, 3, 255",
    "raw IPv6": "10, 3, 58",
    "netlink audit": "16, 3, 9",
    "netlink netfilter": "16, 3, 12",
    "netlink generic": "16, 3, 16",
    "netlink xfrm": "16, 3, 6",
    "netlink connector": "16, 3, 11",
    "netlink selinux": "16, 3, 7",
    "netlink crypto": "16, 3, 21",
}


@BOTH
@pytest.mark.parametrize("socket", SOCKETS.values(), ids=SOCKETS)
def test_refused_sockets(sandbox: Box, socket: str, user: str) -> None:
    """Only Unix, IPv4, IPv6 and harmless netlink; CVE-2017-6074, CVE-2020-14386, CVE-2021-26708 and the like begin
    with another one. AF_VSOCK would reach the hypervisor, AF_PACKET the wire."""
    assert sandbox.probe(f"tell(outcome(call, 'socket', {socket}))", user) in ("EPERM", "EAFNOSUPPORT")


def test_a_filter_for_64_bit_calls_is_not_passed_by_the_other_entries(sandbox: Box) -> None:
    """The same kernel is entered by int 0x80 (i386 numbers) and by numbers with the x32 bit: a filter that looks at
    the number alone would let them through."""
    if platform.machine() != "x86_64":
        pytest.skip("x86 only")
    outcomes = sandbox.probe("""
import mmap
def run(code):
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    if result < 0: raise OSError(-result, '')
# mov eax, 20 (getpid); int 0x80; ret
i386 = bytes.fromhex('b814000000cd80c3')
# mov eax, 0x40000000 + 39 (getpid); syscall; ret
x32 = bytes.fromhex('b8270000400f05c3')
tell([child(run, i386), child(run, x32)])
""")  # fmt: skip
    assert outcomes[0] in ("SIGSYS", "EPERM", "ENOSYS"), outcomes
    assert outcomes[1] in ("SIGSYS", "EPERM", "ENOSYS"), outcomes


def test_handles_of_files_do_not_open_the_host(sandbox: Box) -> None:
    """Shocker (2014): name_to_handle_at gives a handle, open_by_handle_at opens any inode of the file system."""
    assert sandbox.probe("""
def shocker():
    handle = ctypes.create_string_buffer(struct.pack('<II', 128, 0) + bytes(128))
    mount = ctypes.c_int()
    call('name_to_handle_at', -100, b'/etc/passwd', handle, ctypes.byref(mount), 0)
    call('open_by_handle_at', os.open('/', os.O_RDONLY), handle, 0)
tell(outcome(shocker))
""") in ("EPERM", "ENOTSUP")  # fmt: skip


@BOTH
def test_process_1_cannot_be_traced_or_read(sandbox: Box, user: str) -> None:
    """ptrace (attach and seize), process_vm_readv and process_vm_writev on process 1, which holds the host's socket."""
    assert sandbox.probe("""
def vm(name):
    here = ctypes.create_string_buffer(64)
    vector = struct.pack('<QQ', ctypes.addressof(here), 64)
    call(name, 1, vector, 1, struct.pack('<QQ', 0x400000, 64), 1, 0)
tell([attempt('ptrace', 16, 1, 0, 0), attempt('ptrace', 0x4206, 1, 0, 0),
      outcome(vm, 'process_vm_readv'), outcome(vm, 'process_vm_writev')])
""", user) == ["EPERM"] * 4  # fmt: skip


def test_a_user_cannot_trace_root_nor_another_user(sandbox: Box) -> None:
    """ptrace across users inside: what belongs to root stays root's."""
    with sandbox.background("tell(1); sys.stdin.read()") as roots:
        assert sandbox.probe(f"tell(attempt('ptrace', 16, {roots.pid}, 0, 0))", "user") == "EPERM"
        assert sandbox.probe(f"tell(outcome(os.kill, {roots.pid}, 9))", "user") == "EPERM"


def test_root_can_trace_its_own_processes(sandbox: Box) -> None:
    """The row above would pass if ptrace were refused altogether: debuggers must work."""
    with sandbox.background("tell(1); sys.stdin.read()", "user") as users:
        assert sandbox.probe(f"tell(attempt('ptrace', 16, {users.pid}, 0, 0))", "user") == "ok"


def test_processes_of_the_host_have_no_number_inside(sandbox: Box) -> None:
    """kill, ptrace and /proc reach processes by number: those of the host have none. -1 is everybody one may reach."""
    assert sandbox.probe("""
parents = {entry: status(entry)['PPid'] for entry in os.listdir('/proc') if entry.isdecimal()}
tell([parents['1'], set(parents.values()) <= {*parents, '0'}, len(parents) < 8])
""") == ["0", True, True]  # fmt: skip
    host_pid = os.getpid()
    assert sandbox.probe(f"tell([outcome(os.kill, {host_pid}, 0), os.path.exists('/proc/{host_pid}')])") == [
        "ESRCH",
        False,
    ]


@pytest.mark.parametrize("request_", [0x5412, 0x541C, 0x1_0000_5412], ids=["TIOCSTI", "TIOCLINUX", "high bits set"])
def test_a_terminal_takes_no_keys_from_programs(sandbox: Box, request_: int) -> None:
    """TIOCSTI types on the terminal of whoever looks on (CVE-2016-2568 and others, CVE-2019-11461 by high bits)."""
    assert sandbox.probe(f"""
import pty
def steal():
    leader, follower = pty.openpty()
    os.setsid()
    call('ioctl', follower, 0x540e, 0)
    call('ioctl', follower, {request_}, b'x')
tell(child(steal))
""", "user") == "EPERM"  # fmt: skip


def test_no_dmesg(sandbox: Box) -> None:
    """The kernel's log holds addresses and what other tenants do; /dev/kmsg is another way to it."""
    assert not sandbox.probe("tell(readable('/dev/kmsg') or readable('/proc/kmsg'))")
    assert sandbox.run("dmesg").exit != 0


def test_keyrings_are_not_shared(sandbox: Box) -> None:
    """Keys have no namespace of their own: without the filter a session keyring would be the service's."""
    assert sandbox.shell("cat /proc/keys") == ""
    assert all(
        line.split(":")[0].strip() in ("0", "1000") for line in sandbox.shell("cat /proc/key-users").splitlines()
    )


def test_an_independent_checker_agrees(sandbox: Box) -> None:
    """setpriv (util-linux) is other people's code that reports the same rights."""
    dump = sandbox.run("setpriv", "--dump")
    assert dump.ok, dump
    assert "no_new_privs: 1" in dump.stdout
    assert not {"sys_admin", "sys_ptrace", "net_raw", "mknod", "bpf"} & set(re.findall(r"\w+", dump.stdout))


#: What tools such as amicontained and deepce look for, each with what is fine.
FINDINGS = {
    "seccomp": "2",
    "no_new_privs": "1",
    "user namespace": "not the host's",
    "dangerous capabilities": [],
    "system calls that get through": [],
    "devices": [],
    "writable mounts of the host": [],
    "sockets of the host": [],
    "processes of the host": [],
    "kernel settings that can be written": [],
    "profile of the host": "none",
}


def test_what_checkers_of_containers_look_for(sandbox: Box) -> None:
    """The questions of the usual checkers, asked by root: rights, calls, devices, mounts, sockets, processes."""
    found = sandbox.probe("""
import glob, stat
own = status()
def everything(top):
    for directory, _, names in os.walk(top):
        yield from (os.path.join(directory, name) for name in names)
NAMES = {2: 'dac_read_search', 12: 'net_admin', 13: 'net_raw', 16: 'sys_module', 17: 'sys_rawio', 19: 'sys_ptrace',
         21: 'sys_admin', 22: 'sys_boot', 24: 'sys_resource', 25: 'sys_time', 27: 'mknod', 34: 'syslog', 38: 'perfmon',
         39: 'bpf', 40: 'checkpoint_restore'}
held = int(own['CapEff'], 16) | int(own['CapBnd'], 16) | int(own['CapPrm'], 16)
CALLS = ['mount', 'umount2', 'pivot_root', 'unshare', 'setns', 'bpf', 'perf_event_open', 'keyctl', 'add_key',
         'request_key', 'init_module', 'finit_module', 'delete_module', 'kexec_load', 'reboot', 'swapon', 'syslog',
         'open_by_handle_at', 'userfaultfd', 'io_uring_setup', 'quotactl', 'acct', 'settimeofday', 'move_mount',
         'fsopen', 'open_tree']
passed = [name for name in CALLS if name in NUMBERS and attempt(name, 0, 0, 0, 0, 0) not in ('EPERM', 'ENOSYS')]
blocks = []
for path in everything('/dev'):
    if path.startswith('/dev/fd/'):  # of the search itself
        continue
    mode = os.lstat(path).st_mode
    if stat.S_ISBLK(mode) or os.path.basename(path) in ('mem', 'kmem', 'port', 'kvm', 'fuse', 'kmsg'):
        blocks.append(path)
mounts = [line.split() for line in open('/proc/self/mountinfo')]
FINE = {'overlay', 'proc', 'sysfs', 'tmpfs', 'devpts', 'mqueue', 'cgroup', 'cgroup2'}
def kind(fields):
    return fields[fields.index('-') + 1]
foreign = [fields[4] for fields in mounts if kind(fields) not in FINE and 'rw' in fields[5].split(',')]
sockets = [path for path in ('/var/run/docker.sock', '/run/containerd/containerd.sock', '/run/systemd/private',
                             '/run/dbus/system_bus_socket', '/run/cube') if os.path.exists(path)]
processes = [pid for pid in os.listdir('/proc') if pid.isdigit() and not os.path.exists(f'/proc/{pid}/stat')]
settings = [path for path in glob.glob('/proc/sys/kernel/*') + glob.glob('/proc/sys/vm/*')
            if os.path.isfile(path) and outcome(lambda path=path: os.close(os.open(path, os.O_WRONLY))) == 'ok']
try:
    profile = open('/proc/self/attr/current').read().strip() or 'none'
except OSError:
    profile = 'none'
tell({
    'seccomp': own['Seccomp'],
    'no_new_privs': own['NoNewPrivs'],
    'user namespace': "the host's" if open('/proc/self/uid_map').read().split() == ['0', '0', '4294967295']
                      else "not the host's",
    'dangerous capabilities': [name for bit, name in NAMES.items() if held >> bit & 1],
    'system calls that get through': passed,
    'devices': blocks,
    'writable mounts of the host': foreign,
    'sockets of the host': sockets,
    'processes of the host': processes,
    'kernel settings that can be written': settings,
    'profile of the host': profile if profile == 'none' else 'none' if 'unconfined' in profile else profile,
})
""")
    assert found == FINDINGS
