"""Who decides about a credential: a key of the settings, a service elsewhere that is asked, or both.

The callback is CubeSandbox's: a POST that carries the credential in the header that it came in, and the path of the
request in ``X-Request-Path``. 200 admits, every other status refuses.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol
from weakref import WeakValueDictionary

import httpx
import structlog

from cube.api.credentials import Credential
from cube.model.errors import HostError
from cube.settings import Settings

log = structlog.get_logger(__name__)

#: Seconds that a request waits for the callback at most, its turn included.
_LONGEST_WAIT = 5.0
#: Connections to the callback at once.
_CONNECTIONS = 32
#: Answers remembered at once.
_REMEMBERED = 10_000


class Authority(Protocol):
    """Decides about credentials."""

    async def admits(self, credential: Credential, path: bytes) -> bool:
        """Whether a request with this credential may go on; ``path`` is percent-encoded, without a query.

        Raises ``HostError`` when nobody can tell.
        """
        ...


class StaticKey:
    """One key, from the settings."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    async def admits(self, credential: Credential, path: bytes) -> bool:
        """See :class:`Authority`."""
        return hmac.compare_digest(credential.value.encode("latin-1"), self._key)


class Either:
    """Several authorities; the first that admits decides."""

    def __init__(self, *authorities: Authority) -> None:
        self._authorities = authorities

    async def admits(self, credential: Credential, path: bytes) -> bool:
        """See :class:`Authority`."""
        for authority in self._authorities:
            if await authority.admits(credential, path):
                return True
        return False


class Answers:
    """What was answered a short while ago, by digests of caller and path."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._answers: OrderedDict[str, tuple[float, bool]] = OrderedDict()

    def get(self, key: str) -> bool | None:
        """The answer, ``None`` when there is none or it is too old."""
        until, answer = self._answers.get(key, (0.0, False))
        return answer if self._now() < until else None

    def put(self, key: str, answer: bool) -> None:
        """Remember an answer; beyond the bound the oldest is forgotten."""
        self._answers.pop(key, None)
        self._answers[key] = self._now() + self._seconds, answer
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)


class Callback:
    """A service that is asked, once for all who want to know the same thing."""

    def __init__(self, url: str, client: httpx.AsyncClient, answers: Answers) -> None:
        self._url = url
        self._client = client
        self._answers = answers
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def admits(self, credential: Credential, path: bytes) -> bool:
        """See :class:`Authority`."""
        key = credential.digest + hashlib.sha256(path).hexdigest()
        answer = self._answers.get(key)
        if answer is None:
            answer = await self._in_time(key, credential, path)
        return answer

    async def _in_time(self, key: str, credential: Credential, path: bytes) -> bool:
        turn = self._turns.setdefault(key, asyncio.Lock())
        try:
            async with asyncio.timeout(_LONGEST_WAIT), turn:
                answer = self._answers.get(key)
                return await self._ask(key, credential, path) if answer is None else answer
        except (httpx.HTTPError, TimeoutError) as error:
            log.error("auth.unreachable", error=type(error).__name__)  # noqa: TRY400  no secret in it
            raise HostError("the authentication service does not answer: try again later") from None

    async def _ask(self, key: str, credential: Credential, path: bytes) -> bool:
        headers = [credential.header, (b"X-Request-Path", path)]
        async with self._client.stream("POST", self._url, headers=headers) as response:
            answer = response.status_code == httpx.codes.OK
        self._answers.put(key, answer)
        return answer


@asynccontextmanager
async def authority(settings: Settings) -> AsyncIterator[Authority | None]:
    """The authority that the settings ask for, ``None`` when authentication is off."""
    static = StaticKey(settings.api_key) if settings.api_key else None
    if not settings.auth_callback_url:
        yield static
        return
    limits = httpx.Limits(max_connections=_CONNECTIONS)
    async with httpx.AsyncClient(timeout=_LONGEST_WAIT, limits=limits, trust_env=False) as client:
        callback = Callback(settings.auth_callback_url, client, Answers(settings.auth_cache_seconds))
        yield callback if static is None else Either(static, callback)
