"""Loop devices: attached for a block, taken by others, refused; no descriptor stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cube.cubelet.storage import loop
from cube.model.errors import HostError
from cube.settings import Settings
from integration.cubelet.storage.conftest import released
from support.descriptors import open_fds

pytestmark = pytest.mark.root


@pytest.fixture
def backing(settings: Settings) -> Path:
    path = settings.state_dir / "backing"
    path.write_bytes(bytes(1 << 20))
    return path


def test_it_is_there_for_the_block_alone(backing: Path) -> None:
    before = open_fds()
    with loop.attached(backing) as device:
        assert loop.backing_file(device) == backing
    assert released(backing.parent)
    assert open_fds() == before


def test_it_grows_with_its_file(backing: Path) -> None:
    with loop.attached(backing) as device:
        os.truncate(backing, 4 << 20)
        loop.refresh_size(device)
        assert int(Path("/sys/block", device.name, "size").read_text()) * 512 == 4 << 20


def test_a_device_that_another_process_took_first_is_passed_over(
    backing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lost = loop._configure, [errno.EBUSY, errno.EBUSY]

    def configure(device_fd: int, fd: int, flags: int) -> None:
        if lost:
            raise OSError(lost.pop(), "Device or resource busy")
        real(device_fd, fd, flags)

    monkeypatch.setattr(loop, "_configure", configure)
    before = open_fds()
    with loop.attached(backing) as device:
        assert loop.backing_file(device) == backing
    assert open_fds() == before


def test_a_file_that_cannot_be_attached() -> None:
    before = open_fds()
    with pytest.raises(HostError, match="could not be attached"), loop.attached(Path("/dev/null")):
        pass
    assert open_fds() == before


def test_a_file_system_without_direct_io_is_used_through_the_page_cache(
    backing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop._ioctl_configure

    def configure(device_fd: int, fd: int, flags: int) -> None:
        if flags & loop.LO_FLAGS_DIRECT_IO:
            raise OSError(errno.EINVAL, "Invalid argument")
        real(device_fd, fd, flags)

    monkeypatch.setattr(loop, "_ioctl_configure", configure)
    with loop.attached(backing) as device:
        assert Path("/sys/block", device.name, "loop/dio").read_text().strip() == "0"
