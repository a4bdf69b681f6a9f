"""Traffic access tokens where requests do not pass the proxy's own check: at the code interpreter, which has no route.

Asked before the sandbox is looked for, so that who may not enter does not wake it up either.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from cube.envd.asgi import Receive, Scope, Send, header, respond_json
from cube.model.errors import PermissionDenied

HEADER = "e2b-traffic-access-token"
_SANDBOX_HEADER = b"x-cube-sandbox-id"
_SECURED = "Sandbox is secured with traffic access token."


def admit(wanted: str | None, offered: str) -> None:
    """Raise ``PermissionDenied``, in E2B's words, unless the sandbox is open or the token is its own."""
    if wanted is None:
        return
    if not offered:
        raise PermissionDenied(f"{_SECURED} Token header '{HEADER}' is missing")
    if not hmac.compare_digest(offered.encode(), wanted.encode()):
        raise PermissionDenied(f"{_SECURED} Provided token in header '{HEADER}' is invalid")


class TrafficGate:
    """Lets requests for a sandbox through that has no token, or whose token they carry."""

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], token_of: Callable[[str], str | None]
    ) -> None:
        """``token_of`` gives the token of a sandbox by its id, ``None`` for one that is open or unknown."""
        self._app = app
        self._token_of = token_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        sandbox_id = header(scope, _SANDBOX_HEADER)
        try:
            admit(self._token_of(sandbox_id), header(scope, HEADER.encode()))
        except PermissionDenied as error:
            await respond_json(send, 403, {"sandboxId": sandbox_id, "message": error.message, "code": 403})
        else:
            await self._app(scope, receive, send)
