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
from typing import Any

import pyqwest

from cube.bench.load import RoundFailed

_ENVD_PORT = "49983"
_INTERPRETER_PORT = "49999"


@dataclass(frozen=True, slots=True)
class Handle:
    """A sandbox that was created."""

    sandbox_id: str
    token: str

    def headers(self, port: str = _ENVD_PORT) -> dict[str, str]:
        """What leads a request to a port of the sandbox, and lets it in."""
        return {"e2b-sandbox-id": self.sandbox_id, "e2b-sandbox-port": port, "x-access-token": self.token}


class Client:
    """Use as an async context manager. All methods raise ``RoundFailed`` with the answer when it is not the hoped."""

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

    # -- the API ---------------------------------------------------------------------------------------------------

    async def create(self, template: str, seconds: int = 120, **more: object) -> Handle:
        """``POST /v2/sandboxes``; it lives for ``seconds`` unless it is ended. ``more`` are fields of the request."""
        body = {"templateID": template, "metadata": {}, "envVars": {}, "timeout": seconds, **more}
        fields = json.loads(await self._api("POST", "/v2/sandboxes", 201, body))
        return Handle(fields["sandboxID"], fields.get("envdAccessToken") or "")

    async def kill(self, sandbox: Handle) -> None:
        """``DELETE /sandboxes/{id}``."""
        await self._api("DELETE", f"/sandboxes/{sandbox.sandbox_id}", 204)

    async def pause(self, sandbox: Handle, *, memory: bool = True) -> None:
        """``POST /sandboxes/{id}/pause``; without ``memory`` only its files are kept."""
        body = None if memory else {"memory": False}
        await self._api("POST", f"/sandboxes/{sandbox.sandbox_id}/pause", 204, body)

    async def snapshot(self, sandbox: Handle) -> str:
        """``POST /sandboxes/{id}/snapshots``; returns the snapshot's id."""
        answer = await self._api("POST", f"/sandboxes/{sandbox.sandbox_id}/snapshots", 201, {})
        return str(json.loads(answer)["snapshotID"])

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """``DELETE /templates/{id}``, as the SDK deletes one."""
        await self._api("DELETE", f"/templates/{snapshot_id}", 204)

    async def resume(self, sandbox: Handle) -> None:
        """``POST /v2/sandboxes/{id}/connect`` of a paused sandbox, as the SDK resumes one."""
        await self._api("POST", f"/v2/sandboxes/{sandbox.sandbox_id}/connect", 201, {"timeout": 120})

    async def template_id(self, name: str) -> str:
        """Id of a template by name or id; raises ``FileNotFoundError`` when there is none."""
        for template in json.loads(await self._api("GET", "/templates", 200)):
            if name in (template["templateID"], *template.get("names", []), *template.get("aliases", [])):
                return str(template["templateID"])
        raise FileNotFoundError(f"the service has no template {name!r}")

    async def _api(self, method: str, path: str, expected: int, body: dict[str, Any] | None = None) -> bytes:
        content = None if body is None else json.dumps(body).encode()
        answer = await self._http.execute(method, self._url + path, headers=self._headers, content=content)
        if answer.status != expected:
            raise RoundFailed(f"{method} {path} answered {answer.status}: {answer.text()[:200]}")
        return bytes(answer.content)

    # -- inside of a sandbox ---------------------------------------------------------------------------------------

    async def command(self, sandbox: Handle, command: str) -> bytes:
        """Run a shell command as ``commands.run`` of the SDK does; returns its stdout."""
        message = {"process": {"cmd": "/bin/bash", "args": ["-l", "-c", command]}, "stdin": False}
        body = json.dumps(message).encode()
        headers = {
            "content-type": "application/connect+json",
            "connect-protocol-version": "1",
            "connect-timeout-ms": "60000",
            **sandbox.headers(),
        }
        answer = await self._http.post(
            f"{self._url}/process.Process/Start", headers=headers, content=struct.pack(">BI", 0, len(body)) + body
        )
        return _stdout(answer)

    async def run_code(self, sandbox: Handle, code: str) -> str:
        """Run Python in the default context as ``run_code`` of the SDK does; returns the text of the result."""
        body = json.dumps({"code": code, "context_id": None, "language": None, "env_vars": None}).encode()
        headers = {"content-type": "application/json", **sandbox.headers(_INTERPRETER_PORT)}
        answer = await self._http.post(f"{self._url}/execute", headers=headers, content=body)
        for line in bytes(answer.content).splitlines():
            event = json.loads(line)
            if event["type"] == "result" and event.get("is_main_result"):
                return str(event["text"])
        raise RoundFailed(f"the code gave no result ({answer.status}): {answer.content[-200:]!r}")

    async def write(self, sandbox: Handle, path: str, content: bytes) -> None:
        """Write a small file as ``files.write`` of the SDK does."""
        boundary = "0123456789abcdef0123456789abcdef"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{path}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        headers = {"content-type": f"multipart/form-data; boundary={boundary}", **sandbox.headers()}
        answer = await self._http.post(f"{self._url}/files?path={path}", headers=headers, content=body)
        if answer.status != 200:
            raise RoundFailed(f"write answered {answer.status}: {answer.text()[:200]}")

    async def read(self, sandbox: Handle, path: str) -> bytes:
        """Read a small file as ``files.read`` of the SDK does."""
        answer = await self._http.get(f"{self._url}/files?path={path}", headers=sandbox.headers())
        if answer.status != 200:
            raise RoundFailed(f"read answered {answer.status}: {answer.text()[:200]}")
        return bytes(answer.content)


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
