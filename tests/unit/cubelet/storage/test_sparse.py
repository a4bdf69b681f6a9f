"""Files with holes: copied without filling them, and told apart by what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cube.cubelet.storage import sparse

MIB = 1 << 20


def write(path: Path, size: int, *parts: tuple[int, bytes]) -> int:
    """A file with these bytes at these places; the test closes the descriptor or does not care."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.ftruncate(fd, size)
    for position, data in parts:
        os.pwrite(fd, data, position)
    return fd


@pytest.fixture
def opened() -> Iterator[list[int]]:
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


def test_where_the_data_is(tmp_path: Path, opened: list[int]) -> None:
    fd = write(tmp_path / "a", 8 * MIB, (0, b"x"), (4 * MIB, b"y" * MIB))
    opened.append(fd)
    found = list(sparse.extents(fd))
    assert found[0][0] == 0
    assert found[-1] == (4 * MIB, 5 * MIB)


def test_nowhere(tmp_path: Path, opened: list[int]) -> None:
    opened += [write(tmp_path / "a", 8 * MIB), write(tmp_path / "b", 0)]
    assert [list(sparse.extents(fd)) for fd in opened] == [[], []]


def test_a_copy_has_the_same_content_and_the_same_holes(tmp_path: Path, opened: list[int]) -> None:
    source = write(tmp_path / "a", 64 * MIB, (0, b"begin"), (33 * MIB, os.urandom(3 * MIB)), (64 * MIB - 1, b"z"))
    target = write(tmp_path / "b", 0)
    opened += [source, target]
    sparse.copy(source, target)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert os.fstat(target).st_blocks * 512 < 5 * MIB


def test_a_clone_is_equal_whether_blocks_can_be_shared_or_not(tmp_path: Path, opened: list[int]) -> None:
    source, target = write(tmp_path / "a", 3 * MIB, (MIB, b"data")), write(tmp_path / "b", 0)
    opened += [source, target]
    sparse.clone(source, target)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_hole_and_zeros_are_the_same_content(tmp_path: Path, opened: list[int]) -> None:
    holes = write(tmp_path / "a", 4 * MIB, (2 * MIB, b"x"))
    zeros = write(tmp_path / "b", 4 * MIB, (0, bytes(4 * MIB)), (2 * MIB, b"x"))
    opened += [holes, zeros]
    assert sparse.digest(holes) == sparse.digest(zeros)


@given(position=st.integers(0, 3 * MIB - 1), flip=st.integers(1, 255))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_byte_counts(tmp_path: Path, position: int, flip: int) -> None:
    data = bytes(range(256)) * (3 * MIB // 256)
    fd = write(tmp_path / "a", 3 * MIB, (0, data))
    before = sparse.digest(fd)
    os.pwrite(fd, bytes([data[position] ^ flip]), position)
    assert sparse.digest(fd) != before
    os.pwrite(fd, bytes([data[position]]), position)
    assert sparse.digest(fd) == before
    os.close(fd)


def test_the_place_counts(tmp_path: Path, opened: list[int]) -> None:
    first = write(tmp_path / "a", 4 * MIB, (0, b"x"))
    second = write(tmp_path / "b", 4 * MIB, (MIB, b"x"))
    opened += [first, second]
    assert sparse.digest(first) != sparse.digest(second)


def test_a_file_that_is_no_whole_number_of_blocks(tmp_path: Path, opened: list[int]) -> None:
    first, second = write(tmp_path / "a", MIB + 3, (MIB, b"abc")), write(tmp_path / "b", MIB + 3, (MIB, b"abd"))
    opened += [first, second]
    assert sparse.digest(first) != sparse.digest(second)
