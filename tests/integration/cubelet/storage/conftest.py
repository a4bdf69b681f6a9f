"""An instance of its own on this machine, of which nothing may stay."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cube.cubelet.storage import loop, mounts
from cube.cubelet.storage.volume import Volume
from cube.settings import Settings


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Directories of an instance; afterwards no mount and no loop device of it may be left."""
    # Not below /tmp: that may be a tmpfs, whose files loop devices cannot use with direct I/O.
    state = Path(tempfile.mkdtemp(prefix="cube-test-", dir="/var/lib"))
    try:
        yield Settings(state_dir=state, run_dir=state / "run", volume_gb=1)
        assert mounts.below(state) == []
        assert loop_devices(state) == []
    finally:
        for entry in mounts.below(state):
            subprocess.run(["umount", "--lazy", entry.mount_point], check=False)
        shutil.rmtree(state)


def loop_devices(directory: Path) -> list[str]:
    """Loop devices whose file lies in ``directory``."""
    devices = (Path("/dev", path.name) for path in Path("/sys/block").glob("loop*"))
    return [str(device) for device in devices if (loop.backing_file(device) or Path("/")).is_relative_to(directory)]


@pytest.fixture
def volume(settings: Settings) -> Iterator[Volume]:
    """An open volume of 1 GiB."""
    opened = Volume(settings)
    opened.open()
    yield opened
    opened.close()
