"""The promise that namespaces belong to the host, put to the test: a sandbox whose system call filter lets all pass.

What the filter refuses first elsewhere, the kernel itself must refuse here. Only new user namespaces (and what needs
one) and interfaces without owner are the filter's alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from cube.cubelet.runtime.container import rootfs
from security.ground import Box, Ground
from security.test_devices import DANGEROUS
from security.test_namespaces import MOUNTING, NAMESPACES
from security.test_network import LINK

#: BPF_RET | BPF_K, SECCOMP_RET_ALLOW.
_ALLOW_ALL = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF_0000)
#: Opens a path and changes nothing, as O_PATH does.
_HARMLESS = {"open_tree"}
#: Refused for want of a capability over the host.
HOST = {
    "bpf": "call('bpf', 5, bytes(128), 128)",
    "reboot": "call('reboot', 0xfee1dead - (1 << 32), 672274793, 0x89abcdef - (1 << 32), 0)",
    "settimeofday": "call('settimeofday', struct.pack('<QQ', 1, 0), 0)",
    "sethostname": "call('sethostname', b'mine', 4)",
    "syslog": "call('syslog', 5, 0, 0)",
    "swapon": "call('swapon', b'/etc/passwd', 0)",
    "acct": "call('acct', b'/tmp/acct')",
    "open_by_handle_at": "call('open_by_handle_at', os.open('/', 0), struct.pack('<IIQ', 8, 1, 2), 0)",
    "vhangup": "call('vhangup')",
    "iopl": "call('iopl', 3)",
    "packet socket": "call('socket', 17, 3, 0x0300)",
    "raw socket": "call('socket', 2, 3, 1)",
    "memory of process 1": "call('ptrace', 16, 1, 0, 0)",
    "a descriptor of process 1": "call('pidfd_getfd', os.pidfd_open(1), 3, 0)",
    "a lower nice value": "os.setpriority(0, 0, -20)",
    "real time": "os.sched_setscheduler(0, 1, os.sched_param(1))",
}


@pytest.fixture(scope="module")
def sandbox(ground: Ground) -> Iterator[Box]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rootfs, "filter_bytes", lambda: _ALLOW_ALL)
        with ground.sandbox() as box:
            yield box


def test_the_filter_really_is_open(sandbox: Box) -> None:
    """Else this file would test the filter again."""
    assert sandbox.probe("tell(attempt('keyctl', 0, -3, 1))") == "ok"


@pytest.mark.parametrize("name", sorted(MOUNTING.keys() - _HARMLESS))
def test_mounting(sandbox: Box, name: str) -> None:
    """No mount namespace here is one that root inside has a capability over."""
    assert sandbox.probe(f"tell(outcome(lambda: {MOUNTING[name]}))") in ("EPERM", "EINVAL", "EBUSY")


@pytest.mark.parametrize("name", sorted(NAMESPACES.keys() - {"user"}))
def test_unshare(sandbox: Box, name: str) -> None:
    """All but a user namespace need a capability over the one that owns the present ones."""
    assert sandbox.probe(f"tell(child(call, 'unshare', {NAMESPACES[name]}))") == "EPERM"


@pytest.mark.parametrize("command", LINK.values(), ids=LINK)
def test_the_link(sandbox: Box, command: str) -> None:
    """Addresses, routes and links belong to the host's network namespace."""
    before = sandbox.shell("ip -d address; ip route; ip rule")
    assert not sandbox.run(command).ok
    assert sandbox.shell("ip -d address; ip route; ip rule") == before


@pytest.mark.parametrize("node", DANGEROUS.values(), ids=DANGEROUS)
def test_devices(sandbox: Box, node: tuple[int, int, int]) -> None:
    """mknod needs CAP_MKNOD over the host."""
    kind, major, minor = node
    assert (
        sandbox.probe(f"tell(outcome(os.mknod, '/tmp/node', {kind} | 0o666, os.makedev({major}, {minor})))") == "EPERM"
    )


@pytest.mark.parametrize("attack", HOST.values(), ids=HOST)
def test_the_host(sandbox: Box, attack: str) -> None:
    """Clocks, names, logs, memory and processes of the host."""
    assert sandbox.probe(f"tell(outcome(lambda: {attack}))") in ("EPERM", "EACCES", "ENOSYS")
