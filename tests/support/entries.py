"""A directory entry for tests."""

from __future__ import annotations

from cube.envd.guest import Entry, FileType

FILE = Entry(
    path="/home/user/a.txt",
    type=FileType.FILE,
    mode=0o100644,
    link_mode=0o100644,
    size=5,
    mtime_ns=1_700_000_000_500_000_000,
    uid=1000,
    gid=1000,
    owner="user",
    group="user",
)
