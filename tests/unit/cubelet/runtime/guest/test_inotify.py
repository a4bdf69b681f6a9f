"""Records of inotify, whatever is in the buffer."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cube.cubelet.runtime.container.link import is_inotify
from cube.cubelet.runtime.guest.inotify import RawEvent, parse_events


def record(wd: int, mask: int, name: bytes, padding: int = 0) -> bytes:
    return struct.pack("@iIII", wd, mask, 9, len(name) + padding) + name + bytes(padding)


def test_names_lose_their_padding() -> None:
    data = record(1, 2, b"abc", 13) + record(-1, 0x4000, b"") + record(2, 4, b"x", 1)
    assert list(parse_events(data)) == [RawEvent(1, 2, b"abc"), RawEvent(-1, 0x4000, b""), RawEvent(2, 4, b"x")]


def test_a_record_that_is_cut_off_is_dropped() -> None:
    data = record(1, 2, b"abc")
    assert list(parse_events(record(7, 7, b"") + data[:-1])) == [RawEvent(7, 7, b"")]
    assert list(parse_events(data[:15])) == []


@given(st.binary(max_size=200))
def test_nonsense_is_read_to_its_end(data: bytes) -> None:
    for event in parse_events(data):
        assert len(event.name) <= len(data)


def test_other_descriptors_are_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "anon_inode:inotify").touch()
    fd = os.open(tmp_path / "anon_inode:inotify", os.O_RDONLY)
    assert not is_inotify(fd)
    os.close(fd)
