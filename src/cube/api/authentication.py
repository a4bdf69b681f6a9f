"""Asks for a credential, and keeps whoever has one from asking too much."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cube.api.authority import Authority
from cube.api.credentials import credential
from cube.api.errors import error_response
from cube.model.errors import HostError

#: Callers whose use is remembered; who was forgotten starts afresh.
_REMEMBERED = 10_000


class Authentication:
    """Lets requests through whose credential the authority admits, and everything to the open paths."""

    def __init__(self, app: ASGIApp, *, authority: Authority, open_paths: frozenset[str]) -> None:
        self._app = app
        self._authority = authority
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        try:
            admitted = await self._admits(scope)
        except HostError as error:
            await error_response(500, error.message)(scope, receive, send)
            return
        if admitted:
            await self._app(scope, receive, send)
        else:
            await _unauthenticated()(scope, receive, send)

    async def _admits(self, scope: Scope) -> bool:
        offered = credential(Headers(scope=scope))
        return bool(offered.value) and await self._authority.admits(offered, scope["raw_path"])


def _unauthenticated() -> ASGIApp:
    message = "send the API key of this server as `X-API-KEY` (E2B_API_KEY)"
    return error_response(401, message, {"WWW-Authenticate": "Bearer"})


class TokenBuckets:
    """So many tokens per second and key; a second's worth can be saved up. Pure: ``now`` gives seconds."""

    def __init__(self, rate: float, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._now = now
        #: Tokens left, and when that was.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take a token; returns 0, or the seconds after which there will be one."""
        now = self._now()
        tokens, since = self._buckets.pop(key, (self._rate, now))
        tokens = min(self._rate, tokens + (now - since) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[key] = (tokens if wait else tokens - 1), now
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return wait


class RateLimit:
    """Answers 429 to callers that ask more often than ``buckets`` allow."""

    def __init__(self, app: ASGIApp, *, buckets: TokenBuckets, open_paths: frozenset[str]) -> None:
        self._app = app
        self._buckets = buckets
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        wait = 0.0
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            wait = self._buckets.take(credential(Headers(scope=scope)).digest)
        if wait:
            headers = {"Retry-After": str(math.ceil(wait)), "Should-Retry": "true"}
            await error_response(429, "too many requests: slow down", headers)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
