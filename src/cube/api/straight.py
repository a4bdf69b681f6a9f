"""The shortest way for the requests that come most often: plain creates, and the ends of sandboxes.

FastAPI takes longer to find a route, read a body and fill in parameters than the service does for a create. Requests
that can only mean one thing are led straight to the methods that the routes have; whatever is out of the ordinary, or
wrong, takes FastAPI's way, which has the words for it. No answer differs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cube.api import errors
from cube.api.sandboxes import SandboxRoutes
from cube.api.schemas.requests import NewSandbox
from cube.model.errors import CubeError

_ID = re.compile(r"/sandboxes/([A-Za-z0-9]{1,64})")
_Create = Callable[[Request, NewSandbox], Awaitable[Response]]


class StraightWay:
    """Middleware: the innermost one, for what the others do is done for these requests too."""

    def __init__(self, app: ASGIApp, *, routes: SandboxRoutes, prefixes: tuple[str, ...]) -> None:
        self._app = app
        self._delete = routes.delete
        self._prefixes = prefixes
        ways: dict[str, _Create] = {"/v2/sandboxes": routes.create, "/sandboxes": routes.create_v1}
        self._creates = {prefix + path: create for prefix in prefixes for path, create in ways.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        method = scope["method"] if scope["type"] == "http" else ""
        create = self._creates.get(scope["path"]) if method == "POST" else None
        if create is not None and _is_plain(scope):
            await self._created(create, scope, receive, send)
        elif method == "DELETE" and (sandbox_id := self._sandbox_id(scope["path"])):
            await _answered(self._delete(sandbox_id), scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _sandbox_id(self, path: str) -> str | None:
        for prefix in self._prefixes:
            if path.startswith(prefix) and (found := _ID.fullmatch(path, len(prefix))):
                return found[1]
        return None

    async def _created(self, create: _Create, scope: Scope, receive: Receive, send: Send) -> None:
        read = [await receive()]
        while read[-1].get("more_body", False):
            read.append(await receive())
        whole = read[-1]["type"] == "http.request"  # and the client has not left
        body = _new_sandbox(b"".join(message.get("body", b"") for message in read)) if whole else None
        if body is None:
            await self._app(scope, _again(read, receive), send)
        else:
            await _answered(create(Request(scope, receive), body), scope, receive, send)


def _is_plain(scope: Scope) -> bool:
    """Whether a body of JSON and of a known length comes, and no header has a say in what happens."""
    headers = dict(scope["headers"])
    plain = headers.get(b"content-type") == b"application/json" and b"content-length" in headers
    return plain and b"idempotency-key" not in headers


def _new_sandbox(content: bytes) -> NewSandbox | None:
    """The body; ``None`` when it is not as it should be."""
    try:
        value: Any = json.loads(content)
        return NewSandbox.model_validate(value)
    except (ValueError, RecursionError, ValidationError):
        return None


async def _answered(response: Awaitable[Response], scope: Scope, receive: Receive, send: Send) -> None:
    try:
        answer = await response
    except (CubeError, HTTPException) as error:
        answer = errors.answer_to(error)
    await answer(scope, receive, send)


def _again(read: list[Message], receive: Receive) -> Receive:
    """What was read is received once more, then what comes."""
    left = iter(read)

    async def receiver() -> Message:
        return next(left, None) or await receive()

    return receiver
