"""Where the ``cube-init`` program is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cube.model.errors import HostError


def find_cube_init() -> Path:
    """``CUBE_INIT``, else the one of this checkout, else the one in PATH; raises ``HostError`` when there is none."""
    configured = os.environ.get("CUBE_INIT")
    checkout = Path(__file__).resolve().parents[5] / "native" / "cube-init" / "build" / "cube-init"
    for candidate in (configured, checkout, shutil.which("cube-init")):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise HostError("cube-init is not built: make -C native/cube-init")
