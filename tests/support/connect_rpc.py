"""A bare client of the Connect protocol, for what the real clients never send."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx


def envelope(message: Any, flags: int = 0) -> bytes:
    """One message of a stream."""
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return bytes([flags]) + len(data).to_bytes(4, "big") + data


class Stream:
    """The messages of one server stream, an iterator; ``end`` is what the last frame said, ``None`` before it."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.end: dict[str, Any] | None = None
        self._messages = self._parse()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> dict[str, Any]:
        return next(self._messages)

    def _parse(self) -> Iterator[dict[str, Any]]:
        buffer = bytearray()
        for chunk in self.response.iter_raw():
            buffer += chunk
            while len(buffer) >= 5 and len(buffer) >= 5 + int.from_bytes(buffer[1:5], "big"):
                size = int.from_bytes(buffer[1:5], "big")
                flags, data = buffer[0], json.loads(buffer[5 : 5 + size])
                del buffer[: 5 + size]
                if flags & 2:
                    self.end = data
                    return
                yield data


class RpcClient:
    """Speaks JSON to one sandbox."""

    def __init__(self, url: str, sandbox_id: str = "i1", token: str | None = None, user: str = "") -> None:
        headers = {"E2b-Sandbox-Id": sandbox_id}
        if token is not None:
            headers["X-Access-Token"] = token
        if user:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:".encode()).decode()
        self.http = httpx.Client(base_url=url, headers=headers, timeout=20)

    def unary(self, method: str, message: Any, **headers: str) -> httpx.Response:
        """Call a unary method, like ``process.Process/List``."""
        content = message if isinstance(message, bytes) else json.dumps(message).encode()
        fields = {"Content-Type": "application/json"} | _names(headers)
        return self.http.post(f"/{method}", content=content, headers=fields)

    @contextmanager
    def stream(self, method: str, *messages: Any, **headers: str) -> Iterator[Stream]:
        """Call a streaming method; leaving the block early closes the connection."""
        content = b"".join(envelope(message) for message in messages)
        with self.raw_stream(method, content, **headers) as stream:
            yield stream

    @contextmanager
    def raw_stream(self, method: str, content: Any, **headers: str) -> Iterator[Stream]:
        """Call a streaming method with a body of the caller's making."""
        fields = {"Content-Type": "application/connect+json"} | _names(headers)
        with self.http.stream("POST", f"/{method}", content=content, headers=fields) as response:
            yield Stream(response)

    def start(self, script: str, **headers: str) -> Any:
        """Start a shell script, without stdin."""
        process = {"cmd": "/bin/bash", "args": ["-c", script]}
        return self.stream("process.Process/Start", {"process": process, "stdin": False}, **headers)

    def connect(self, pid: int, **headers: str) -> Any:
        """Follow a process."""
        return self.stream("process.Process/Connect", {"process": {"pid": pid}}, **headers)


def output(events: list[dict[str, Any]], channel: str = "stdout") -> bytes:
    """All output of one channel."""
    data = (event["event"].get("data", {}).get(channel, "") for event in events)
    return b"".join(base64.b64decode(piece) for piece in data)


def pid_of(event: dict[str, Any]) -> int:
    """The process id of a start event."""
    return int(event["event"]["start"]["pid"])


def _names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
