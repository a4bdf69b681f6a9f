"""Envoy's configuration as plain dictionaries, in its proto3 JSON form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Json = dict[str, Any]


def typed(message: str, **fields: Any) -> Json:
    """A ``google.protobuf.Any`` that holds ``message``."""
    return {"@type": f"type.googleapis.com/{message}"} | fields


def extension(name: str, message: str, **fields: Any) -> Json:
    """A configured extension, the shape that filters and transport sockets share."""
    return {"name": name, "typed_config": typed(message, **fields)}


def pipe(path: Path, **fields: Any) -> Json:
    """A unix socket as an address."""
    return {"pipe": {"path": str(path)} | fields}


def seconds(value: float) -> str:
    """A ``google.protobuf.Duration``."""
    return f"{value:g}s"
