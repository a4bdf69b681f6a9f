"""Questions to Envoy's admin interface on its unix socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

_ANSWER_SECONDS = 1.0


async def get(socket: Path, path: str) -> tuple[int, bytes]:
    """Status and body of ``GET path``. Raises ``OSError`` or ``TimeoutError`` when nobody answers."""
    async with asyncio.timeout(_ANSWER_SECONDS):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode("ascii"))
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
    return int(head.split(b" ", 2)[1] or 0) if head else 0, body


async def is_live(socket: Path) -> bool:
    """Whether Envoy has its configuration and its workers accept connections."""
    try:
        status, _ = await get(socket, "/ready")
    except (OSError, TimeoutError):
        return False
    return status == 200
