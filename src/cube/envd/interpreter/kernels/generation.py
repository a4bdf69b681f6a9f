"""Copies of a running sandbox: noticing that this process is one, and no longer drawing what its twins draw.

Where sandboxes can be copied with their memory, the first line of a file changes in every copy before anything else
runs there. The kernel of the operating system has been reseeded by then; what programs have drawn from it before is
still theirs, and the same in all copies.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import Any

PATH = "/run/cube/generation"

_FRESH_BYTES = 32


class Generation:
    """Compares a few bytes that are mapped, which costs nothing; without the file it never changes."""

    def __init__(self, path: str = PATH) -> None:
        self._map: mmap.mmap | None = None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._map = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
            finally:
                os.close(descriptor)
        except (OSError, ValueError):
            pass  # sandboxes of this kind are never copied
        self._seen = self._now()

    def changed(self) -> bool:
        """Whether this is a copy since the last call."""
        now = self._now()
        if now == self._seen:
            return False
        self._seen = now
        return True

    def _now(self) -> bytes:
        return b"" if self._map is None else self._map[:]


def reseed() -> None:
    """Seed what is known to be seeded once: Python's ``random``, NumPy's and PyTorch's global generators, OpenSSL's."""
    import random

    random.seed()
    for name, function in (("numpy.random", "seed"), ("torch", "seed")):
        _call(sys.modules.get(name), function)
    ssl: Any = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(_FRESH_BYTES), _FRESH_BYTES)
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None


def _call(module: Any, function: str) -> None:
    found = getattr(module, function, None)
    if callable(found):
        found()
