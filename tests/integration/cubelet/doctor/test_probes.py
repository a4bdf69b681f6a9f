"""The probes are run for real; this machine must pass what the test suite itself stands on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from cube.cubelet.doctor import PROBES, kvm, storage
from cube.cubelet.doctor.check import Status, in_child
from cube.cubelet.doctor.kernel import unshare
from cube.cubelet.runtime.microvm import accelerator
from support.descriptors import open_fds

pytestmark = pytest.mark.root

NEEDED = [probe for name, probe in PROBES if name != "KVM"]


@pytest.mark.parametrize("probe", NEEDED, ids=[name for name, _ in PROBES if name != "KVM"])
def test_this_machine_can_run_sandboxes(probe) -> None:  # type: ignore[no-untyped-def]
    check = probe()
    assert check.status in (Status.OK, Status.LIMITED), check


def test_probes_leave_nothing_behind() -> None:
    def traces() -> list[set[object]]:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return [set(mounts), set(socket.if_nameindex()), set(open_fds())]

    def run_all() -> str:
        # In namespaces of its own, where nothing but the probes makes mounts and interfaces. Mounts that were copied go
        # when somebody removes the directory they are on, wherever that is done.
        unshare("mount", "net")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        before = traces()
        for _, probe in PROBES:
            probe()
        left = [now - then for now, then in zip(traces(), before, strict=True)]
        return str(left) if any(left) else "nothing"

    assert in_child(run_all) == (True, "nothing")


def test_a_failing_probe_answers_with_the_kernels_reason() -> None:
    def attempt() -> str:
        unshare("net")
        raise PermissionError(1, "not today")

    assert in_child(attempt) == (False, "[Errno 1] not today")


@pytest.mark.parametrize(("where", "status"), [("/dev/shm/there/or/not", Status.OK), ("/proc/x", Status.LIMITED)])
def test_a_run_directory_that_is_not_in_memory_is_told(
    where: str, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBE_RUN_DIR", where)
    check = storage.run_directory()
    assert check.status is status
    assert where in check.detail
    assert ("CUBE_RUN_DIR" in check.consequence) is (status is Status.LIMITED)


def _killed() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"


def test_a_killed_probe_answers_too() -> None:
    worked, reason = in_child(_killed)
    assert not worked
    assert "killed" in reason


def test_kvm_is_not_believed_without_a_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever /dev/kvm says: without an emulator and a kernel the answer is "unknown", never "ok"."""
    monkeypatch.setattr(accelerator, "DEVICE", Path("/dev/null"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    check = kvm.boots_a_guest()
    assert check.status is Status.UNKNOWN
    assert "qemu-system-x86_64" in check.detail
