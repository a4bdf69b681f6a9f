"""The wrappers of mount system calls do on a real kernel what they say."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cube.cubelet.runtime.container import syscalls
from cube.cubelet.runtime.container.syscalls import MountAttr

pytestmark = pytest.mark.root


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "target"
    directory.mkdir()
    yield directory
    with suppress(OSError):
        syscalls.umount2(str(directory), syscalls.MNT_DETACH)


def new_tmpfs(attributes: MountAttr = MountAttr.NONE) -> int:
    context = syscalls.fsopen("tmpfs")
    try:
        syscalls.fsconfig(context, "size", "64k")
        syscalls.fsconfig(context, "ro")
        return syscalls.fsmount(context, attributes)
    finally:
        os.close(context)


def test_a_file_system_is_made_attached_and_taken_away(target: Path) -> None:
    mount = new_tmpfs(MountAttr.NODEV)
    syscalls.move_mount(mount, str(target))
    os.close(mount)
    found = os.statvfs(target)
    assert found.f_frsize * found.f_blocks == 65536
    assert found.f_flag & os.ST_RDONLY
    assert found.f_flag & os.ST_NODEV
    syscalls.umount2(str(target))
    assert not os.path.ismount(target)


def test_a_copy_of_a_mount_gets_attributes_of_its_own(target: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").touch()
    copy = syscalls.open_tree(str(tmp_path / "source"), recursive=True)
    syscalls.mount_setattr(copy, MountAttr.RDONLY | MountAttr.NOEXEC, recursive=True)
    syscalls.move_mount(copy, str(target))
    os.close(copy)
    with pytest.raises(OSError, match="Read-only"):
        (target / "file").write_text("x")
    (tmp_path / "source" / "file").write_text("x")
    assert (target / "file").read_text() == "x"


def test_a_copy_is_made_of_an_open_directory_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = os.open(tmp_path, os.O_PATH)
    copy = syscalls.open_tree("", dir_fd=directory)
    assert os.access("file", os.F_OK, dir_fd=copy)
    assert not os.get_inheritable(copy)
    os.close(copy)
    os.close(directory)


def test_what_the_kernel_refuses_is_raised_with_its_reason(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError) as caught:
        syscalls.open_tree(missing)
    assert caught.value.filename == missing
    with pytest.raises(OSError, match="nofs") as unknown:
        syscalls.fsopen("nofs")
    assert unknown.value.errno == errno.ENODEV
    with pytest.raises(OSError, match="Invalid argument"):
        syscalls.umount2(str(tmp_path))
    with pytest.raises(OSError, match="Bad file descriptor"):
        syscalls.mount_setattr(9999, MountAttr.RDONLY)
