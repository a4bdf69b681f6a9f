from __future__ import annotations

from pathlib import Path

import pytest

from cube.cubelet.volumes.content import VolumeContent
from cube.cubelet.volumes.tree import FILES
from support.fake_volumes import ID_BASE, furnish


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of a volume; the tests put into it what a sandbox could have made."""
    furnish(tmp_path / "volume")
    (tmp_path / "outside").write_text("of the host")
    return tmp_path / "volume"


@pytest.fixture
def files(directory: Path) -> Path:
    """What sandboxes see of it."""
    return directory / FILES


@pytest.fixture
async def content(directory: Path) -> VolumeContent:
    return VolumeContent("vol-1", directory, ID_BASE)
