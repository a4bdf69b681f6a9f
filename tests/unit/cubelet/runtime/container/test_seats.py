from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import cast

import pytest

from cube.cubelet.cgroups.group import Cgroup
from cube.cubelet.runtime.container.launcher import Launched
from cube.cubelet.runtime.container.seats import Seat, affordable
from cube.netagent.links import Link


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 4096), max(before[1], 4096)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def seat(parked: Launched | None) -> Seat:
    return Seat(cast("Link", None), cast("Cgroup", None), None, 0, parked)


@pytest.mark.parametrize("lowest", [3, 2000])
def test_a_seat_is_usable_as_long_as_its_process_waits(many_descriptors: None, lowest: int) -> None:
    """A busy service has descriptors beyond 1,024, which select(2) does not know."""
    process = subprocess.Popen(["sleep", "60"])
    first = os.pidfd_open(process.pid)
    pidfd = fcntl.fcntl(first, fcntl.F_DUPFD_CLOEXEC, lowest)
    ours, theirs = socket.socketpair()
    try:
        own = seat(Launched(process.pid, pidfd, ours))
        assert own.usable
        signal.pidfd_send_signal(first, signal.SIGKILL)
        process.wait()
        assert not own.usable
    finally:
        for closable in (ours, theirs):
            closable.close()
        os.close(first)
        os.close(pidfd)


def test_a_seat_that_was_taken_over_is_not_for_new_sandboxes() -> None:
    assert not seat(None).usable


@pytest.mark.parametrize(
    ("gigabytes", "seats"), [(0.25, 5), (1, 21), (4, 85), (24, 512), (512, 512)], ids=lambda number: f"{number:g}"
)
def test_the_seats_that_are_kept_take_a_hundredth_of_the_memory_at_most(
    monkeypatch: pytest.MonkeyPatch, gigabytes: float, seats: int
) -> None:
    values = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(gigabytes * 2**30 / 4096)}
    monkeypatch.setattr(os, "sysconf", values.__getitem__)
    assert affordable() == seats
