"""Text that goes into a sandbox and names that come out of it."""

from __future__ import annotations

import os

from cube.model.errors import InvalidInput


def encode(text: str, field: str) -> bytes:
    """Text for the kernel. Raises ``InvalidInput`` for what it cannot take: a zero byte, half a character."""
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        raise InvalidInput(f"{field} is not valid Unicode", field=field) from None
    if b"\0" in data:
        raise InvalidInput(f"{field} must not contain a zero byte", field=field)
    return data


def shown(data: bytes) -> str:
    """A name of the sandbox as text that can be shown and sent; bytes that are not UTF-8 become ``\\xNN``."""
    return data.decode("utf-8", "backslashreplace")
