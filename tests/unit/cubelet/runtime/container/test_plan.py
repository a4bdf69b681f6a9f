"""Which failures of a start are want of room: those of steps that write, and no limit that only sounds like it."""

from __future__ import annotations

import errno

import pytest

from cube.cubelet.runtime.container.plan import describe, ran_out_of_room
from cube.cubelet.runtime.container.steps import File, Hostname
from cube.cubelet.runtime.guest.wire import Failure

STEPS = (File("/etc/hosts", 0o644, 0, 0, b"127.0.0.1 localhost\n"), Hostname("one"))


@pytest.mark.parametrize(
    ("number", "stage", "full"),
    [
        (errno.ENOSPC, 0, True),
        (errno.EDQUOT, 0, True),
        (errno.EACCES, 0, False),
        (errno.ENOSPC, 1, False),
        (errno.ENOSPC, 2, False),
        (errno.ENOSPC, 2**32 - 1, False),
    ],
)
def test_only_steps_that_write_run_out_of_room(number: int, stage: int, full: bool) -> None:
    assert ran_out_of_room(STEPS, Failure(number, stage, "")) is full


def test_stages_are_told_in_words() -> None:
    assert describe(STEPS, 0) == "starting the sandbox: writing the file /etc/hosts"
    assert describe(STEPS, 2) == "starting the sandbox: making its first process"
