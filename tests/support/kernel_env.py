"""A Python environment with what a code interpreter image has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PACKAGES = ["ipython", "numpy", "pandas", "matplotlib", "e2b-charts", "pillow", "orjson"]


def kernel_environment() -> Path:
    """Made once, kept where CUBE_TEST_KERNEL_ENV says."""
    place = Path(os.environ.get("CUBE_TEST_KERNEL_ENV", "~/.cache/cube-tests/kernelenv")).expanduser()
    if not any(place.glob("lib/python3*/site-packages/e2b_charts")):
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([place / "bin/python", "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return place
