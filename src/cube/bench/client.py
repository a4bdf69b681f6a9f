"""A lean client of the public port, so that what is measured is the service and not the client.

It sends what the E2B SDK sends (same routes, headers and framing) with the HTTP library that the SDK itself uses for
envd.
"""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from types import TracebackType

import pyqwest

from cube.bench.load import RoundFailed

_ENVD_PORT = "49983"


@dataclass(frozen=True, slots=True)
class Handle:
    """A sandbox that was created."""

    sandbox_id: str
    token: str


class Client:
    """Use as an async context manager."""

    def __init__(self, url: str, api_key: str = "") -> None:
        self._url = url.rstrip("/")
        self._headers = {"content-type": "application/json", "x-api-key": api_key}
        self._transport = pyqwest.HTTPTransport(http_version=pyqwest.HTTPVersion.HTTP1)
        self._http = pyqwest.Client(self._transport)

    async def __aenter__(self) -> Client:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def create(self, template: str) -> Handle:
        """``POST /v2/sandboxes``; raises ``RoundFailed`` with the answer's text when it is refused."""
        body = json.dumps({"templateID": template, "metadata": {}, "envVars": {}, "timeout": 120}).encode()
        answer = await self._http.post(f"{self._url}/v2/sandboxes", headers=self._headers, content=body)
        if answer.status != 201:
            raise RoundFailed(f"create answered {answer.status}: {answer.text()[:200]}")
        fields = json.loads(answer.content)
        return Handle(fields["sandboxID"], fields.get("envdAccessToken") or "")

    async def kill(self, sandbox: Handle) -> None:
        """``DELETE /sandboxes/{id}``."""
        answer = await self._http.delete(f"{self._url}/sandboxes/{sandbox.sandbox_id}", headers=self._headers)
        if answer.status != 204:
            raise RoundFailed(f"kill answered {answer.status}: {answer.text()[:200]}")

    async def template_id(self, name: str) -> str:
        """Id of a template by name or id; raises ``FileNotFoundError`` when there is none."""
        answer = await self._http.get(f"{self._url}/templates", headers=self._headers)
        for template in json.loads(answer.content):
            if name in (template["templateID"], *template.get("names", []), *template.get("aliases", [])):
                return str(template["templateID"])
        raise FileNotFoundError(f"the service has no template {name!r}")

    async def command(self, sandbox: Handle, command: str) -> bytes:
        """Run a shell command as ``commands.run`` of the SDK does; returns its stdout, raises ``RoundFailed`` when it
        fails."""
        message = {"process": {"cmd": "/bin/bash", "args": ["-l", "-c", command]}, "stdin": False}
        body = json.dumps(message).encode()
        headers = {
            "content-type": "application/connect+json",
            "connect-protocol-version": "1",
            "connect-timeout-ms": "60000",
            "e2b-sandbox-id": sandbox.sandbox_id,
            "e2b-sandbox-port": _ENVD_PORT,
            "x-access-token": sandbox.token,
        }
        answer = await self._http.post(
            f"{self._url}/process.Process/Start", headers=headers, content=struct.pack(">BI", 0, len(body)) + body
        )
        return _stdout(answer)


def _stdout(answer: pyqwest.FullResponse) -> bytes:
    """Stdout of a finished command from the frames of its event stream."""
    output, ended = b"", False
    for frame in _frames(answer.content):
        event = frame.get("event", {})
        output += base64.b64decode(event.get("data", {}).get("stdout", ""))
        if "end" in event:
            ended = event["end"].get("exitCode", 0) == 0
    if answer.status != 200 or not ended:
        raise RoundFailed(f"the command did not end well ({answer.status}): {answer.content[-200:]!r}")
    return output


def _frames(content: bytes) -> list[dict[str, dict[str, dict[str, str]]]]:
    frames, at = [], 0
    while at + 5 <= len(content):
        (length,) = struct.unpack_from(">I", content, at + 1)
        frames.append(json.loads(content[at + 5 : at + 5 + length]))
        at += 5 + length
    return frames
