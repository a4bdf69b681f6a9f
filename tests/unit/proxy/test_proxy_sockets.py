"""Modes of the shared directory, and finding the door that is shut."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cube.model.errors import HostError
from cube.proxy import sockets

UID = os.getuid()
OTHER = 64100


@pytest.fixture
def open_tmp() -> Iterator[Path]:
    """pytest's own temporary directories are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="cube-proxy-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_outermost_closed_directory_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    closed = tmp_path / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0o700)
    (closed / "inner").chmod(0o700)
    named = sockets.closed_parent(closed / "inner" / "file", OTHER)
    assert named is not None
    assert named in (closed, *closed.parents)


@pytest.mark.parametrize(("bits", "allowed"), [(0o700, True), (0o600, False), (0o077, False)])
def test_owner_is_judged_by_the_owners_bits(tmp_path: Path, bits: int, allowed: bool) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    os.chmod(directory, bits)
    assert (sockets.closed_parent(directory / "file", UID) != directory) is allowed
    directory.chmod(0o700)


@pytest.mark.skipif(UID != 0, reason="gives files to another user")
def test_directory_gets_its_modes_and_keeps_them_on_repetition(open_tmp: Path) -> None:
    home = open_tmp / "run" / "proxy"
    for _ in range(2):
        sockets.prepare_directory(home, OTHER)
        sockets.make_readable(home / "routes", OTHER)
        assert [mode(home), mode(home / "routes"), mode(home / "admin")] == [0o750, 0o2750, 0o700]
        assert (home.stat().st_uid, home.stat().st_gid) == (0, OTHER)
        assert (home / "admin").stat().st_uid == OTHER
        home.chmod(0o777)


@pytest.mark.skipif(UID != 0, reason="gives files to another user")
def test_closed_parent_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(HostError, match="chmod o\\+x"):
        sockets.prepare_directory(closed / "run" / "proxy", OTHER)


@pytest.mark.skipif(UID != 0, reason="gives files to another user")
def test_listening_replaces_a_leftover_and_removes_its_own(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    path.touch()
    with sockets.listening(path, OTHER) as listener:
        assert mode(path) == 0o660
        assert (path.stat().st_uid, path.stat().st_gid) == (0, OTHER)
        assert listener.getblocking() is False
    assert not path.exists()


def test_others_files_in_the_directory_stay(tmp_path: Path) -> None:
    home = tmp_path / "proxy"
    (home / "routes").mkdir(parents=True)
    (home / "api.sock").touch()
    sockets.remove_directory(home)
    assert [path.name for path in home.iterdir()] == ["api.sock"]
    (home / "api.sock").unlink()
    sockets.remove_directory(home)
    assert not home.exists()
