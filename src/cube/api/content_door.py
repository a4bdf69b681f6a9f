"""Leads requests for content past what is only for the API: its credentials, its limit of bodies."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class ContentDoor:
    """Middleware that hands what is below ``prefix`` to an application of its own."""

    def __init__(self, app: ASGIApp, *, content: ASGIApp, prefix: str) -> None:
        self._app = app
        self._content = content
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        inside = scope["type"] == "http" and scope["path"].startswith(self._prefix)
        await (self._content if inside else self._app)(scope, receive, send)
