"""The archive, read by a reader of its own and by the one that everybody uses."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from cube.cubelet.runtime.microvm.boot.cpio import Member, archive, directory
from cube.cubelet.runtime.microvm.boot.initramfs import initramfs
from cube.cubelet.runtime.microvm.boot.modules import Module


def members(data: bytes) -> list[Member]:
    """Take an archive apart (cpio(5), "New ASCII Format")."""
    found, at = [], 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        _, mode, uid, gid, _, _, size, _, _, major, minor, name_size, _ = fields
        assert (uid, gid) == (0, 0)
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        at += (110 + name_size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert at == len(data)
            return found
        found.append(Member(name[:-1].decode(), mode, data[at : at + size], (major, minor)))
        at += (size + 3) // 4 * 4


@pytest.mark.parametrize("size", range(9))
def test_names_and_contents_of_any_length(size: int) -> None:
    wanted = [directory("d"), Member("d/" + "n" * (size + 1), stat.S_IFREG | 0o640, b"x" * size), Member("z", 0o20600)]
    assert members(archive(wanted)) == wanted


def test_a_device() -> None:
    wanted = [Member("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))]
    assert members(archive(wanted)) == wanted


@pytest.mark.skipif(shutil.which("busybox") is None, reason="another reader is not installed")
def test_it_can_be_unpacked_by_others(tmp_path: Path) -> None:
    data = archive([directory("d"), Member("d/file", stat.S_IFREG | 0o640, b"content")])
    subprocess.run(["busybox", "cpio", "-i", "-d"], input=data, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "d/file").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "d/file").stat().st_mode) == 0o640


def test_the_initramfs_has_init_and_the_modules_in_their_order() -> None:
    found = members(initramfs(b"program", [Module("b", b"2"), Module("a", b"1")]))
    files = {member.path: member for member in found}
    assert (files["init"].content, files["init"].mode) == (b"program", stat.S_IFREG | 0o755)
    assert files["modules/order"].content == b"b\na\n"
    assert files["modules/a"].content == b"1"
    assert stat.S_ISCHR(files["dev/console"].mode)
    made: set[str] = set()
    for member in found:
        assert member.path.rpartition("/")[0] in {"", *made}, "a parent comes before what is in it"
        made.add(member.path)


def test_it_is_the_same_every_time() -> None:
    assert initramfs(b"p", [Module("m", b"1")]) == initramfs(b"p", [Module("m", b"1")])
