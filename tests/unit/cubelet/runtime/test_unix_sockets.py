"""Sockets by directory and name, however deep the directory is."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from cube.cubelet.runtime import unix_sockets

_KIND = socket.SOCK_SEQPACKET


@pytest.fixture(params=["short", "deep"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    directory = tmp_path / ("d" * 60) / ("e" * 60) if request.param == "deep" else tmp_path
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def test_who_connects_is_heard(directory: Path) -> None:
    with (
        unix_sockets.listen(directory, "door", _KIND) as listener,
        unix_sockets.connect(directory, "door", _KIND) as client,
    ):
        client.send(b"hello")
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(10) == b"hello"


def test_it_is_its_owners_alone(directory: Path) -> None:
    with unix_sockets.listen(directory, "door", _KIND):
        assert stat.S_IMODE((directory / "door").stat().st_mode) == 0o600


def test_one_that_was_left_behind_is_replaced(directory: Path) -> None:
    unix_sockets.listen(directory, "door", _KIND).close()
    with unix_sockets.listen(directory, "door", _KIND), unix_sockets.connect(directory, "door", _KIND):
        pass


def test_nobody_listens(directory: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unix_sockets.connect(directory, "door", _KIND)
    with pytest.raises(FileNotFoundError):
        unix_sockets.listen(directory / "missing", "door", _KIND)
    unix_sockets.listen(directory, "door", _KIND).close()
    with pytest.raises(ConnectionRefusedError):
        unix_sockets.connect(directory, "door", _KIND)
