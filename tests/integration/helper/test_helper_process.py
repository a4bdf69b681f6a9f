"""The helper, as a process."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cube.cubelet.runtime.container.record import start_time
from cube.helper.process import Helper, Here
from cube.model.errors import HostError, InvalidInput
from support import helper_work
from support.descriptors import open_fds
from support.helper_work import end_other_than, hold, large, pipe, refuse, where


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Helper]:
    """One that can do the work of the tests too."""
    tests = Path(helper_work.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])]))
    helper = Helper()
    helper.start()
    yield helper
    helper.close()


def test_work_is_done_in_another_process(helper: Helper) -> None:
    assert helper.call(where, "there") == ((helper.pid, "there"), [])
    assert helper.pid not in (None, os.getpid())


def test_descriptors_come_with_the_answer_and_belong_to_the_caller(helper: Helper) -> None:
    helper.call(where, "")
    before, theirs = open_fds(), len(os.listdir(f"/proc/{helper.pid}/fd"))
    _, (read, write) = helper.call(pipe, b"content")
    assert os.read(read, 100) == b"content"
    assert not os.get_inheritable(read)
    os.close(read)
    os.close(write)
    assert open_fds() == before
    helper.call(where, "")
    assert len(os.listdir(f"/proc/{helper.pid}/fd")) == theirs


@pytest.mark.parametrize(
    "error", [FileExistsError(errno.EEXIST, "there"), HostError("the kernel refused it"), ValueError("no")]
)
def test_errors_are_raised_where_it_was_asked_for(helper: Helper, error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        helper.call(refuse, error)
    assert str(raised.value) == str(error)
    assert helper.call(where, "on")[0] == (helper.pid, "on")


def test_an_error_keeps_what_it_says_of_a_field(helper: Helper) -> None:
    with pytest.raises(InvalidInput) as raised:
        helper.call(refuse, InvalidInput("too long", field="name"))
    assert raised.value.field == "name"


def test_when_it_dies_the_work_is_done_here(helper: Helper) -> None:
    before = open_fds()
    assert helper.call(end_other_than, os.getpid()) == (os.getpid(), [])
    assert helper.pid is None
    assert helper.call(where, "here")[0] == (os.getpid(), "here")
    assert len(open_fds()) == len(before) - 1, "its socket is closed"


def test_one_that_was_killed_while_nothing_was_asked(helper: Helper) -> None:
    helper.call(where, "")
    assert helper.pid is not None
    os.kill(helper.pid, signal.SIGKILL)
    assert helper.call(where, "here")[0] == (os.getpid(), "here")


def test_an_answer_that_is_too_large_is_refused(helper: Helper) -> None:
    with pytest.raises(ValueError, match="too large"):
        helper.call(large, 1 << 20)
    assert helper.call(where, "on")[0][1] == "on"


def test_threads_take_turns(helper: Helper, tmp_path: Path) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(helper.call(hold, str(tmp_path / "gate"))[0])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [0] * 8


def test_it_ends_with_its_socket_and_not_by_ctrl_c(helper: Helper) -> None:
    helper.call(where, "")
    pid = helper.pid
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    assert helper.call(where, "on")[0] == (pid, "on")
    helper.close()
    assert start_time(pid) is None
    helper.close()
    assert helper.call(where, "here")[0][0] == os.getpid()


def test_without_one_the_work_is_done_here() -> None:
    assert Here().call(where, "here") == ((os.getpid(), "here"), [])
    assert Helper().call(where, "here") == ((os.getpid(), "here"), [])
