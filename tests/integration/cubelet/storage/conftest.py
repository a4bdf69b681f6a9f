"""An instance of its own on this machine, of which nothing may stay."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
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
        assert released(state), "a loop device is still attached"
    finally:
        for entry in mounts.below(state):
            subprocess.run(["umount", "--lazy", entry.mount_point], check=False)
        shutil.rmtree(state)


def released(directory: Path) -> bool:
    """Whether no loop device is left. A process elsewhere that has just copied the mount table for a namespace of its
    own holds a copy of our mount until it lets go of the old root: wait for that, there is no event to wait on."""
    deadline = time.monotonic() + 30
    while loop_devices(directory) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not loop_devices(directory)


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
