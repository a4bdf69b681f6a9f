"""The Connect services on ``connectrpc``, and the checks that it leaves to us.

Left to us (version 0.12): time limits, noticing a client that goes away while a stream is silent, and
malformed messages, which would be answered with "unknown" and status 500.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from connectrpc.code import Code
from connectrpc.errors import ConnectError

from cube.envd.asgi import Receive, Scope, Send, header, respond, respond_json
from cube.envd.auth import named_user
from cube.envd.call import KEEPALIVE, Call, Connection, current_call
from cube.envd.codecs import strict_codecs
from cube.envd.errors import connect_error
from cube.envd.filesystem.service import FilesystemService
from cube.envd.process.service import ProcessService
from cube.envd.proto.filesystem.filesystem_connect import FilesystemASGIApplication
from cube.envd.proto.process.process_connect import ProcessASGIApplication
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import CubeError

#: Largest message. A bigger input for a process goes in several.
MESSAGE_LIMIT = 8 * 1024 * 1024

_CONTENT_TYPES = {"application/json", "application/proto", "application/connect+json", "application/connect+proto"}
_STREAMS = {"/process.Process/Start", "/process.Process/Connect", "/process.Process/StreamInput"} | {
    "/filesystem.Filesystem/WatchDir"
}
_UNARY = {f"/process.Process/{name}" for name in ("List", "SendInput", "SendSignal", "CloseStdin", "Update")} | {
    f"/filesystem.Filesystem/{name}"
    for name in ("Stat", "MakeDir", "Move", "ListDir", "Remove", "CreateWatcher", "GetWatcherEvents", "RemoveWatcher")
}
#: Headers that the protocol needs; the others may hold bytes that are no UTF-8.
_HEADERS = {
    b"content-type",
    b"content-encoding",
    b"connect-content-encoding",
    b"connect-protocol-version",
    b"connect-timeout-ms",
}
_SHORTEST_KEEPALIVE = 1.0
_LONGEST_KEEPALIVE = 3600.0


class RpcServices:
    """Dispatches to the two services."""

    def __init__(self) -> None:
        codecs = strict_codecs()
        process = ProcessASGIApplication(ProcessService(), read_max_bytes=MESSAGE_LIMIT, compressions=(), codecs=codecs)
        filesystem = FilesystemASGIApplication(
            FilesystemService(), read_max_bytes=MESSAGE_LIMIT, compressions=(), codecs=codecs
        )
        self._apps = {
            path: filesystem if path.startswith("/filesystem.") else process for path in sorted(_STREAMS | _UNARY)
        }

    def serves(self, path: str) -> bool:
        """Whether a path belongs to an RPC service, known method or not."""
        return path.startswith(("/process.Process/", "/filesystem.Filesystem/"))

    async def handle(self, scope: Scope, receive: Receive, send: Send, sandbox: EnvdSandbox) -> None:
        """Answer one RPC for a sandbox; the access token has been checked."""
        app = self._apps.get(scope["path"])
        if app is None:
            await respond_json(send, 404, {"code": "unimplemented", "message": "no such method"})
        elif scope["method"] != "POST":
            await respond(send, 405, headers=[(b"allow", b"POST")])
        elif not _content_type_fits(scope):
            await respond(send, 415, headers=[(b"accept-post", b"application/json, application/proto")])
        else:
            await self._call(app, scope, receive, send, sandbox)

    async def _call(self, app: Any, scope: Scope, receive: Receive, send: Send, sandbox: EnvdSandbox) -> None:
        connection = Connection(receive)
        try:
            call = _call_of(scope, connection, sandbox)
        except CubeError as error:
            await _refuse(scope, send, connect_error(error))
            return
        token = current_call.set(call)
        try:
            await app(_plain_scope(scope), connection.receive, send)
        finally:
            current_call.reset(token)


def _content_type_fits(scope: Scope) -> bool:
    kind = header(scope, b"content-type").partition(";")[0].strip().lower()
    return kind in _CONTENT_TYPES and (scope["path"] in _STREAMS) == kind.startswith("application/connect+")


def _plain_scope(scope: Scope) -> Scope:
    headers = [(key, value) for key, value in scope["headers"] if key in _HEADERS and value.isascii()]
    return {**scope, "headers": headers}


def _call_of(scope: Scope, connection: Connection, sandbox: EnvdSandbox) -> Call:
    return Call(
        sandbox=sandbox,
        user=named_user(scope) or sandbox.default_user,
        connection=connection,
        keepalive=_keepalive(scope),
        deadline=_deadline(scope),
    )


def _keepalive(scope: Scope) -> float:
    seconds = _number(header(scope, b"keepalive-ping-interval"))
    return KEEPALIVE if not seconds else min(max(float(seconds), _SHORTEST_KEEPALIVE), _LONGEST_KEEPALIVE)


def _deadline(scope: Scope) -> float | None:
    milliseconds = _number(header(scope, b"connect-timeout-ms"))
    return asyncio.get_running_loop().time() + milliseconds / 1000 if milliseconds else None


def _number(text: str) -> int:
    """A positive number of at most ten digits, as the Connect protocol bounds it; 0 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0


async def _refuse(scope: Scope, send: Send, error: ConnectError) -> None:
    """Answer with an error before ``connectrpc`` sees the request, in the form its kind of method has."""
    wire = {"code": error.code.value, "message": error.message}
    if scope["path"] in _UNARY:
        await respond_json(send, 401 if error.code is Code.UNAUTHENTICATED else 400, wire)
        return
    data = orjson.dumps({"error": wire})
    kind = header(scope, b"content-type").partition(";")[0].strip().lower().encode()
    await respond(send, 200, b"\x02" + len(data).to_bytes(4, "big") + data, [(b"content-type", kind)])
