"""The compiled filter is run by a small interpreter of classic BPF and compared with the policy, call by call."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cube.cubelet.runtime.container.seccomp import bpf, policy
from cube.cubelet.runtime.container.seccomp.numbers import ARCHITECTURES
from cube.model.errors import Unsupported

EPERM = bpf.RET_ERRNO | errno.EPERM
ENOSYS = bpf.RET_ERRNO | errno.ENOSYS


def run(program: list[bpf.Instruction], data: bytes) -> int:
    """What the kernel would answer; raises on anything outside the program or an unknown instruction."""
    at, a = 0, 0
    while True:
        i = program[at]
        at += 1
        if i.code == 0x20:
            (a,) = struct.unpack_from("<I", data, i.k)
        elif i.code == 0x54:
            a &= i.k
        elif i.code == 0x05:
            at += i.k
        elif i.code == 0x15:
            at += i.jt if a == i.k else i.jf
        elif i.code == 0x35:
            at += i.jt if a >= i.k else i.jf
        elif i.code == 0x06:
            return i.k
        else:
            raise AssertionError(f"unknown instruction {i}")


def verdict(machine: str, number: int, *args: int, audit: int | None = None) -> int:
    arch, _ = ARCHITECTURES[machine]
    padded = [*args, *([0] * (6 - len(args)))]
    data = struct.pack("<IIQ6Q", number, arch if audit is None else audit, 0, *padded)
    return run(bpf.compile_filter(machine), data)


def call(machine: str, name: str, *args: int) -> int:
    return verdict(machine, ARCHITECTURES[machine][1][name], *args)


@pytest.fixture(params=sorted(ARCHITECTURES))
def machine(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_call_answers_as_the_policy_says(machine: str) -> None:
    special = {rule.call for rule in policy.CONDITIONAL} | set(policy.NOT_IMPLEMENTED)
    for name, number in ARCHITECTURES[machine][1].items():
        if name not in special:
            expected = bpf.RET_ALLOW if name in policy.allowed_calls() else EPERM
            assert verdict(machine, number) == expected, name


def test_every_name_of_the_policy_exists_somewhere() -> None:
    known = set().union(*(numbers for _, numbers in ARCHITECTURES.values()))
    assert policy.allowed_calls() <= known
    assert {rule.call for rule in policy.CONDITIONAL} <= known


def test_docker_denies_these_and_so_do_we(machine: str) -> None:
    denied = """
        acct add_key bpf delete_module finit_module init_module io_uring_enter io_uring_register io_uring_setup
        kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind mount mount_setattr move_mount move_pages fsopen
        fsmount fsconfig fspick open_tree open_by_handle_at perf_event_open pidfd_getfd pivot_root process_madvise
        quotactl quotactl_fd reboot request_key setns set_mempolicy settimeofday clock_settime swapoff swapon syslog
        umount2 unshare userfaultfd vhangup fanotify_init nfsservctl sethostname setdomainname
    """
    numbers = ARCHITECTURES[machine][1]
    for name in denied.split():
        if name in numbers:
            assert verdict(machine, numbers[name]) == EPERM, name


@pytest.mark.parametrize("flag", [1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30])
def test_clone_may_not_make_namespaces(machine: str, flag: int) -> None:
    assert call(machine, "clone", flag | 17) == EPERM
    assert call(machine, "clone", 0x3D0F00) == bpf.RET_ALLOW  # what pthread_create asks for


def test_clone3_is_answered_as_by_an_old_kernel(machine: str) -> None:
    assert call(machine, "clone3") == ENOSYS


def test_socket_families(machine: str) -> None:
    refused = bpf.RET_ERRNO | errno.EAFNOSUPPORT
    allowed = {1, 2, 10}
    for family in range(46):
        if family == 16:
            continue
        assert call(machine, "socket", family, 1, 0) == (bpf.RET_ALLOW if family in allowed else refused), family
    for protocol in range(23):
        expected = bpf.RET_ALLOW if protocol in (0, 4, 15) else refused
        assert call(machine, "socket", 16, 3, protocol) == expected, protocol


def test_terminal_input_cannot_be_faked(machine: str) -> None:
    assert call(machine, "ioctl", 0, 0x5412) == EPERM
    assert call(machine, "ioctl", 0, 0x541C) == EPERM
    # The kernel looks at the low 32 bits of the request alone, so high bits must not help.
    assert call(machine, "ioctl", 0, 0x1_0000_5412) == EPERM
    assert call(machine, "ioctl", 0, 0x5413) == bpf.RET_ALLOW
    for btrfs in (0x5000940E, 0x9408, 0x4004_9409):
        assert call(machine, "ioctl", 0, btrfs) == EPERM
    assert call(machine, "ioctl", 0, 0x4004_9500) == bpf.RET_ALLOW


def test_personality(machine: str) -> None:
    assert call(machine, "personality", 0) == bpf.RET_ALLOW
    assert call(machine, "personality", 0xFFFFFFFF) == bpf.RET_ALLOW
    assert call(machine, "personality", 0x0100_0000) == EPERM


def test_other_architectures_are_killed(machine: str) -> None:
    i386 = 0x40000003
    assert verdict(machine, 1, audit=i386) == bpf.RET_KILL_PROCESS


def test_x32_calls_do_not_exist() -> None:
    assert verdict("x86_64", 0x4000_0000 | 1) == ENOSYS


@given(st.integers(min_value=467, max_value=2**32 - 1))
def test_unknown_calls_are_not_implemented(number: int) -> None:
    assert verdict("x86_64", number) == ENOSYS


def test_the_program_fits_the_kernel_limit(machine: str) -> None:
    assert len(bpf.compile_filter(machine)) <= 4096
    assert len(bpf.filter_bytes(machine)) == 8 * len(bpf.compile_filter(machine))


def test_unknown_machine_is_refused() -> None:
    with pytest.raises(Unsupported, match="riscv64"):
        bpf.compile_filter("riscv64")
