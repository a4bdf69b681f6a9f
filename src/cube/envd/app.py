"""E2B's in-sandbox protocol (port 49983) as one ASGI application for all sandboxes of a node.

The proxy in front says which sandbox a request is for, with the header ``x-cube-sandbox-id``; it removes that header
from what clients send. Only signed file URLs come without it: their signature finds the sandbox.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qsl

import structlog

from cube.envd.asgi import ClientDisconnected, Message, Receive, Scope, Send, header, respond_json
from cube.envd.auth import require_token, signed_by
from cube.envd.errors import INTERNAL_ERROR, rest_body, sandbox_gone
from cube.envd.files.service import get_file, post_compose, post_files
from cube.envd.rest import get_envs, get_health, get_metrics, post_init
from cube.envd.rpc import RpcServices
from cube.envd.sandboxes import EnvdSandbox, EnvdSandboxes
from cube.model.errors import (
    CubeError,
    InvalidInput,
    NotFound,
    SandboxNotFound,
    SandboxNotRunning,
    Unauthenticated,
)

SANDBOX_HEADER = b"x-cube-sandbox-id"
_OPERATIONS = {"GET": "read", "HEAD": "read", "POST": "write"}
_QUERY_FIELDS = 32

log = structlog.get_logger(__name__)


def create_envd_app(sandboxes: EnvdSandboxes, *, internal: bool = False) -> EnvdApp:
    """The application for ``sandboxes``.

    ``internal`` says that only the orchestrator can reach it, as inside a microVM; then ``POST /init`` is served.
    """
    return EnvdApp(sandboxes, internal=internal)


class EnvdApp:
    """An ASGI application; see :func:`create_envd_app`."""

    def __init__(self, sandboxes: EnvdSandboxes, *, internal: bool) -> None:
        self._sandboxes = sandboxes
        self._internal = internal
        self._rpc = RpcServices()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await _Exchange(send).run(lambda tracked: self._answer(scope, receive, tracked), scope)
        else:
            await send({"type": "websocket.close"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = _query(scope)
        sandbox = await self._sandbox(scope, query)
        path = scope["path"]
        if self._rpc.serves(path):
            require_token(scope, sandbox)
            await self._rpc.handle(scope, receive, send, sandbox)
        else:
            await self._answer_rest(scope, receive, send, sandbox, query)

    async def _answer_rest(
        self, scope: Scope, receive: Receive, send: Send, sandbox: EnvdSandbox, query: Mapping[str, str]
    ) -> None:
        route = (scope["method"], scope["path"])
        if route == ("GET", "/health"):
            await get_health(send, sandbox)
        elif route in (("GET", "/files"), ("HEAD", "/files")):
            await get_file(scope, receive, send, sandbox, query)
        elif route == ("POST", "/files"):
            await post_files(scope, receive, send, sandbox, query)
        elif route == ("POST", "/init") and self._internal:
            await post_init(receive, send, sandbox)
        else:
            require_token(scope, sandbox)
            await self._answer_private(route, receive, send, sandbox)

    async def _answer_private(self, route: tuple[str, str], receive: Receive, send: Send, sandbox: EnvdSandbox) -> None:
        if route == ("GET", "/metrics"):
            await get_metrics(send, sandbox, self._sandboxes)
        elif route == ("GET", "/envs"):
            await get_envs(send, sandbox)
        elif route == ("POST", "/files/compose"):
            await post_compose(receive, send, sandbox)
        else:
            raise NotFound("no such resource")

    async def _sandbox(self, scope: Scope, query: Mapping[str, str]) -> EnvdSandbox:
        if sandbox_id := header(scope, SANDBOX_HEADER):
            return await self._sandboxes.get(sandbox_id)
        operation = _OPERATIONS.get(scope["method"])
        if scope["path"] == "/files" and operation and query.get("signature"):
            # Every token is compared, found or not, so that the time tells nothing.
            owners = [one for one in self._sandboxes.running() if signed_by(one, query, operation)]
            if owners:
                return owners[0]
            raise Unauthenticated("invalid signature")
        raise SandboxNotFound("")


class _Exchange:
    """One request and its response: knows whether the response has begun, and answers for errors until then."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False

    async def run(self, answer: Callable[[Send], Awaitable[None]], scope: Scope) -> None:
        try:
            await answer(self._tracked)
        except ClientDisconnected:
            return
        except CubeError as error:
            if self._begun:
                # The server closes the connection of a response that is not complete: the client sees it is cut.
                log.warning("a response was cut off", path=scope["path"], error=error.message)
                return
            await self._refuse(error, scope)
        except Exception:
            log.exception("answering a request failed", path=scope["path"])
            if not self._begun:
                await respond_json(self._send, 500, rest_body(500, INTERNAL_ERROR))

    async def _tracked(self, message: Message) -> None:
        self._begun = True
        await self._send(message)

    async def _refuse(self, error: CubeError, scope: Scope) -> None:
        if isinstance(error, SandboxNotFound | SandboxNotRunning):
            await respond_json(self._send, *sandbox_gone(error))
            return
        await respond_json(self._send, error.code, rest_body(error.code, error.message))


def _query(scope: Scope) -> dict[str, str]:
    """The query parameters; the first value of each counts. Raises ``InvalidInput``."""
    text = scope.get("query_string", b"")
    if not text:
        return {}
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, max_num_fields=_QUERY_FIELDS, errors="strict")
    except ValueError as error:
        raise InvalidInput("the query is not percent-encoded UTF-8, or has too many parameters") from error
    return dict(reversed(pairs))


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
