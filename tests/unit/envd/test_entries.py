from __future__ import annotations

import json
import stat
from dataclasses import replace

import pytest

from cube.envd.filesystem.entries import entry_info, permissions
from support.entries import FILE


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (stat.S_IFREG | 0o644, "-rw-r--r--"),
        (stat.S_IFREG | 0o4755, "urwxr-xr-x"),
        (stat.S_IFDIR | 0o755, "drwxr-xr-x"),
        (stat.S_IFDIR | 0o1777, "dtrwxrwxrwx"),
        (stat.S_IFDIR | 0o2775, "dgrwxrwxr-x"),
        (stat.S_IFLNK | 0o777, "Lrwxrwxrwx"),
        (stat.S_IFCHR | 0o666, "Dcrw-rw-rw-"),
        (stat.S_IFBLK | 0o660, "Drw-rw----"),
        (stat.S_IFIFO | 0o600, "prw-------"),
        (stat.S_IFSOCK | 0o755, "Srwxr-xr-x"),
    ],
)
def test_permissions_read_as_go_prints_them(mode: int, text: str) -> None:
    assert permissions(mode) == text


def test_a_file_on_the_wire() -> None:
    assert json.loads(entry_info(FILE).to_json()) == {
        "name": "a.txt",
        "type": "FILE_TYPE_FILE",
        "path": "/home/user/a.txt",
        "size": "5",
        "mode": 0o644,
        "permissions": "-rw-r--r--",
        "owner": "user",
        "group": "user",
        "modifiedTime": "2023-11-14T22:13:20.500Z",
    }


def test_a_link_shows_its_target_and_its_own_permissions() -> None:
    link = replace(FILE, link_mode=stat.S_IFLNK | 0o777, target="/etc/passwd")
    shown = json.loads(entry_info(link).to_json())
    assert shown["type"] == "FILE_TYPE_FILE"
    assert shown["mode"] == 0o644
    assert shown["permissions"] == "Lrwxrwxrwx"
    assert shown["symlinkTarget"] == "/etc/passwd"
    assert shown["isSymlink"] is True


def test_metadata_travels() -> None:
    assert json.loads(entry_info(replace(FILE, metadata={"k": "v"})).to_json())["metadata"] == {"k": "v"}


def test_a_time_before_1970() -> None:
    assert (
        json.loads(entry_info(replace(FILE, mtime_ns=-1)).to_json())["modifiedTime"] == "1969-12-31T23:59:59.999999999Z"
    )
