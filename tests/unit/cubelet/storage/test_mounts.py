"""The mount table: escapes are undone, the topmost mount is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from cube.cubelet.storage import mounts

TABLE = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:5 / /srv/with\\040blank rw master:2 propagate_from:1 - tmpfs none rw
24 22 0:6 / /srv/back\\134slash\\012line ro - erofs /images/a\\040b ro
25 23 7:1 / /srv/with\\040blank ro - btrfs /dev/loop1 rw
"""


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_options: TABLE)


def test_all_mounts_are_read() -> None:
    assert [entry.file_system for entry in mounts.mounts()] == ["ext4", "tmpfs", "erofs", "btrfs"]


def test_escapes_are_undone() -> None:
    assert mounts.mounts()[2].mount_point == Path("/srv/back\\slash\nline")
    assert mounts.mounts()[2].source == "/images/a b"


def test_the_topmost_mount_counts() -> None:
    found = mounts.find(Path("/srv/with blank"))
    assert found is not None
    assert found.source == "/dev/loop1"


def test_no_mount_at_a_parent_of_one() -> None:
    assert mounts.find(Path("/srv")) is None


def test_mounts_below_come_latest_first() -> None:
    assert [entry.file_system for entry in mounts.below(Path("/srv"))] == ["btrfs", "erofs", "tmpfs"]
