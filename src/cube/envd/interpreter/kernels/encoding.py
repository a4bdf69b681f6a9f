"""JSON of whatever values libraries display."""

from __future__ import annotations

import base64
import json
import math
from typing import Any


def drop_biggest(encoded: dict[str, str], limit: int) -> list[str]:
    """Remove the longest values until the rest has at most ``limit`` characters; the keys that went."""
    dropped = []
    while encoded and sum(map(len, encoded.values())) > limit:
        biggest = max(encoded, key=lambda mime: len(encoded[mime]))
        del encoded[biggest]
        dropped.append(biggest)
    return dropped


def to_json(value: Any) -> str | None:
    """JSON of a value, ``None`` when it has none. What is no number in JSON (NaN, infinity) becomes null."""
    try:
        return json.dumps(value, allow_nan=False, default=_plain)
    except ValueError:
        return _finite_json(value)
    except (TypeError, RecursionError):
        return None


def _finite_json(value: Any) -> str | None:
    try:
        return json.dumps(_finite(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if value is None or isinstance(value, (str, int)):
        return value
    return _finite(_plain(value))


def _plain(value: Any) -> Any:
    """JSON's view of values that libraries use in their data: numpy scalars and arrays, times, bytes."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    for method in ("isoformat", "tolist"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"{type(value).__name__} has no JSON")
