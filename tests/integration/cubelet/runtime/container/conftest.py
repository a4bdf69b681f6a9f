"""A real ``cube-init``, and a place on this machine to start sandboxes in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parents[5] / "native" / "cube-init"


@pytest.fixture(scope="session")
def cube_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built from the sources of this checkout."""
    build = tmp_path_factory.mktemp("cube-init")
    subprocess.run(["make", "--silent", "-C", str(_SOURCE), f"BUILD={build}"], check=True)
    return build / "cube-init"
