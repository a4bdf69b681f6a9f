"""What /etc of a sandbox says of its seat."""

from __future__ import annotations

import os
from pathlib import Path


def write_place(upper: Path, id_base: int, gateway: str) -> None:
    """What /etc says of the seat, put into a layer before it is mounted: there it costs a quarter of what replacing
    files through the overlay does, and whatever an image has at these names is covered, not followed. Blocks."""
    etc = upper / "etc"
    etc.mkdir(mode=0o755)
    os.chown(etc, id_base, id_base)
    _write(etc / "resolv.conf", f"nameserver {gateway}\n", id_base)
    _write(etc / "machine-id", f"{os.urandom(16).hex()}\n", id_base)


def _write(path: Path, content: str, owner: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(file, content.encode())
        os.fchown(file, owner, owner)
    finally:
        os.close(file)
