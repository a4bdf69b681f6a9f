"""Where ``vmm-guard.so`` is (``native/vmm-guard``)."""

from __future__ import annotations

import os
from pathlib import Path

from cube.model.errors import HostError


def find_guard() -> Path:
    """``CUBE_VMM_GUARD``, else the one of this checkout, else the installed one; ``HostError`` when there is none."""
    configured = os.environ.get("CUBE_VMM_GUARD")
    checkout = Path(__file__).resolve().parents[5] / "native" / "vmm-guard" / "build" / "vmm-guard.so"
    for candidate in (configured, checkout, "/usr/local/lib/cube/vmm-guard.so"):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise HostError("vmm-guard.so is not built: make -C native/vmm-guard")
