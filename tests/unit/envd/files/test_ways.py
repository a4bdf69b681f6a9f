"""Which way a file takes to the disk, and that both bring the same content there."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cube.envd.aligned import PAGE, aligned_buffer
from cube.envd.files import ways
from cube.envd.files.ways import FileSink, Speeds, Way
from cube.envd.guest import Buffer

SIZE = 4 * 1024 * 1024


def taken(speeds: Speeds, costs: dict[Way, float], count: int) -> list[Way]:
    """The ways of so many writes, each of which costs what it costs."""
    found = []
    for _ in range(count):
        way = speeds.next()
        speeds.took(way, SIZE, costs[way])
        found.append(way)
    return found


@pytest.fixture
def speeds() -> Speeds:
    speeds = Speeds()
    speeds.took(Way.CACHED, SIZE, 1.0)
    return speeds


class TestSpeeds:
    def test_the_faster_way_is_taken(self, speeds: Speeds) -> None:
        assert taken(speeds, {Way.CACHED: 1.0, Way.DIRECT: 0.5}, 10) == [Way.DIRECT] * 10

    def test_a_disk_that_is_slow_is_tried_once_in_a_while(self, speeds: Speeds) -> None:
        found = taken(speeds, {Way.CACHED: 1.0, Way.DIRECT: 5.0}, 100)
        tries = [number for number, way in enumerate(found) if way is Way.DIRECT]
        assert tries == [0, 17, 34, 51, 68, 85]

    def test_direct_writes_may_take_a_little_longer(self, speeds: Speeds) -> None:
        assert taken(speeds, {Way.CACHED: 1.0, Way.DIRECT: 1.4}, 10) == [Way.DIRECT] * 10

    def test_when_the_cache_has_to_wait_for_the_disk_the_way_is_changed(self, speeds: Speeds) -> None:
        taken(speeds, {Way.CACHED: 1.0, Way.DIRECT: 5.0}, 10)
        assert Way.DIRECT in taken(speeds, {Way.CACHED: 20.0, Way.DIRECT: 5.0}, 5)
        assert taken(speeds, {Way.CACHED: 20.0, Way.DIRECT: 5.0}, 10).count(Way.DIRECT) >= 9

    def test_one_slow_write_changes_little(self, speeds: Speeds) -> None:
        taken(speeds, {Way.CACHED: 2.0, Way.DIRECT: 1.0}, 10)
        speeds.took(Way.DIRECT, SIZE, 2.0)
        assert speeds.next() is Way.DIRECT


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Whether each write went past the cache, and how long it was."""
    calls: list[tuple[bool, int]] = []
    plain = os.write

    def write(fd: int, data: Buffer) -> int:
        calls.append((bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT), len(data)))
        return plain(fd, data)

    monkeypatch.setattr(os, "write", write)
    return calls


@pytest.fixture(autouse=True)
def _small_files_are_big(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "CACHED_FIRST", 4 * PAGE)


def always(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Speeds, "next", lambda _: way)


def random_page_buffer(pages: int, seed: int = 1) -> bytearray:
    buffer = aligned_buffer(pages * PAGE)
    buffer[:] = random.Random(seed).randbytes(len(buffer))
    return buffer


def content(fd: int) -> bytes:
    return Path(f"/proc/self/fd/{fd}").read_bytes()


class TestFileSink:
    def test_a_file_begins_in_the_cache(
        self, file: int, written: list[tuple[bool, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        always(Way.DIRECT, monkeypatch)
        sink, data = FileSink(file), random_page_buffer(2)
        for _ in range(4):
            sink.write(data)
        assert [direct for direct, _ in written] == [False, False, True, True]
        assert content(file) == data * 4

    def test_what_is_no_whole_page_goes_through_the_cache(
        self, file: int, written: list[tuple[bool, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And so does what follows it, until the file ends with a page again."""
        always(Way.DIRECT, monkeypatch)
        sink, data = FileSink(file), random_page_buffer(4)
        pieces: list[Buffer] = [data, data, data[:100], data, bytes(data[100:]), data, data[:5]]
        for piece in pieces:
            sink.write(piece)
        assert [direct for direct, _ in written] == [False, True, False, False, False, True, False]
        assert content(file) == b"".join(pieces)

    def test_both_ways_in_one_file(self, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
        chance = random.Random(7)
        monkeypatch.setattr(Speeds, "next", lambda _: chance.choice(list(Way)))
        sink = FileSink(file)
        pieces = [random_page_buffer(chance.randrange(1, 9), seed) for seed in range(60)]
        for piece in pieces:
            sink.write(piece)
        assert content(file) == b"".join(pieces)

    def test_a_file_system_that_refuses_gets_the_rest_through_the_cache(
        self, file: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        always(Way.DIRECT, monkeypatch)
        plain, refused = os.write, []

        def write(fd: int, data: Buffer) -> int:
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                refused.append(len(data))
                raise OSError(errno.EINVAL, "Invalid argument")
            return plain(fd, data)

        monkeypatch.setattr(os, "write", write)
        sink, data = FileSink(file), random_page_buffer(4)
        for _ in range(4):
            sink.write(data)
        assert refused == [len(data)], "it is asked once"
        assert content(file) == data * 4

    def test_a_write_that_is_cut_short_is_completed(self, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
        always(Way.DIRECT, monkeypatch)
        plain = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: plain(fd, memoryview(data)[: max(1, len(data) // 2)]))
        sink, data = FileSink(file), random_page_buffer(4)
        for _ in range(3):
            sink.write(data)
        assert content(file) == data * 3

    def test_a_full_disk_is_an_error(self, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
        always(Way.DIRECT, monkeypatch)
        sink, data = FileSink(file), random_page_buffer(4)
        sink.write(data)

        def full(fd: int, data: Buffer) -> int:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="quota"):
            sink.write(data)
