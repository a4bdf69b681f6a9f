"""The probes are run for real; this machine must pass what the test suite itself stands on."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from cube.cubelet.doctor import PROBES, kvm
from cube.cubelet.doctor.check import Status, in_child
from cube.cubelet.doctor.kernel import unshare

pytestmark = pytest.mark.root

NEEDED = [probe for name, probe in PROBES if name != "KVM"]


@pytest.mark.parametrize("probe", NEEDED, ids=[name for name, _ in PROBES if name != "KVM"])
def test_this_machine_can_run_sandboxes(probe) -> None:  # type: ignore[no-untyped-def]
    check = probe()
    assert check.status in (Status.OK, Status.LIMITED), check


def test_probes_leave_nothing_behind() -> None:
    def traces() -> tuple[str, list[str], set[str]]:
        mounts = Path("/proc/self/mountinfo").read_text()
        return mounts, sorted(os.listdir("/sys/class/net")), set(os.listdir("/proc/self/fd"))

    before = traces()
    for _, probe in PROBES:
        probe()
    assert traces() == before


def test_a_failing_probe_answers_with_the_kernels_reason() -> None:
    def attempt() -> str:
        unshare("net")
        raise PermissionError(1, "not today")

    assert in_child(attempt) == (False, "[Errno 1] not today")


def _killed() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"


def test_a_killed_probe_answers_too() -> None:
    worked, reason = in_child(_killed)
    assert not worked
    assert "killed" in reason


def test_kvm_is_not_believed_without_a_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever /dev/kvm says: without an emulator and a kernel the answer is "unknown", never "ok"."""
    monkeypatch.setattr(kvm, "_DEVICE", Path("/dev/null"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    check = kvm.boots_a_guest()
    assert check.status is Status.UNKNOWN
    assert "qemu-system-x86_64" in check.detail


def test_a_guest_that_hangs_is_given_up(tmp_path: Path) -> None:
    """An emulator that prints the loader's last line and then hangs, as stock kernels do on some hosts."""
    emulator = tmp_path / "emulator"
    emulator.write_text("#!/bin/sh\necho 'Booting from ROM...'\nexec sleep 60\n")
    emulator.chmod(0o755)
    check = kvm.boot(str(emulator), tmp_path / "kernel", "kvm", patience=0.3)
    assert check.status is Status.LIMITED
    assert "Booting from ROM" in check.detail


def test_a_guest_that_boots_is_seen(tmp_path: Path) -> None:
    emulator = tmp_path / "emulator"
    emulator.write_text("#!/bin/sh\necho '[ 0.9] Kernel panic - not syncing: VFS: Unable to mount root fs'\n")
    emulator.chmod(0o755)
    assert kvm.boot(str(emulator), tmp_path / "kernel", "kvm").status is Status.OK
