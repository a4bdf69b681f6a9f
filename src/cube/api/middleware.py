"""What happens to every request, before and around its route. Plain ASGI: these lie on the path of every create."""

from __future__ import annotations

import re
import secrets

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cube.api.errors import error_response

log = structlog.get_logger(__name__)

#: Ids that clients may choose: they end up in logs and headers.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Gives each request an id (the client's, when it sent a usable ``X-Request-Id``), in its logs and its answer.

    It is also the last resort: what no handler expected is logged and answered 500 without any detail.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await _answered(self._app, scope, receive, _with_header(send, request_id))


def _request_id(headers: Headers) -> str:
    offered = headers.get("x-request-id", "")
    return offered if _REQUEST_ID.fullmatch(offered) else secrets.token_hex(8)


def _with_header(send: Send, request_id: str) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(raw=message["headers"])["x-request-id"] = request_id
        await send(message)

    return sender


async def _answered(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    started = False

    async def sender(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    try:
        await app(scope, receive, sender)
    except Exception:
        log.exception("api.crashed", method=scope["method"], path=scope["path"])
        if started:
            raise
        answer = error_response(500, "the server failed unexpectedly; its log has the reason under this X-Request-Id")
        await answer(scope, receive, send)


class BodyLimit:
    """Refuses bodies of more than ``limit`` bytes, announced or not, without taking them in."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _announced(Headers(scope=scope)) > self._limit:
            await error_response(413, self._message())(scope, receive, send)
        else:
            await self._app(scope, self._limited(receive), send)

    def _limited(self, receive: Receive) -> Receive:
        taken = 0

        async def receiver() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limit:
                raise HTTPException(413, self._message())
            return message

        return receiver

    def _message(self) -> str:
        return f"the body must not be larger than {self._limit} bytes"


def _announced(headers: Headers) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isdecimal() and len(length) < 20 else 0
