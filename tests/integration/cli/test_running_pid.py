"""Who holds the lock of an instance."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from cube.cli import daemon
from cube.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", run_dir=tmp_path / "run")


def test_nobody_without_a_file(settings: Settings) -> None:
    assert daemon.running_pid(settings) is None


def test_the_one_that_holds_the_lock(settings: Settings) -> None:
    with daemon.only_one(settings):
        assert daemon.running_pid(settings) == os.getpid()
    assert daemon.running_pid(settings) is None


def test_a_file_that_a_crash_has_left_is_not_believed(settings: Settings) -> None:
    settings.run_dir.mkdir()
    daemon.pid_file(settings).write_text("1")
    assert daemon.running_pid(settings) is None


def test_one_that_removes_its_file_meanwhile(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fcntl.flock

    def removed_while_it_is_asked(file: Any, how: int) -> None:
        daemon.pid_file(settings).unlink()
        plain(file, how)

    with daemon.only_one(settings):
        monkeypatch.setattr(fcntl, "flock", removed_while_it_is_asked)
        assert daemon.running_pid(settings) == os.getpid()
