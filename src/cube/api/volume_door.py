"""Leads requests for the content of volumes past what is only for the API: its credentials, its limit of bodies."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/volumecontent/"


class VolumeDoor:
    """Middleware that hands what is about the content of volumes to an application of its own."""

    def __init__(self, app: ASGIApp, *, content: ASGIApp) -> None:
        self._app = app
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        inside = scope["type"] == "http" and scope["path"].startswith(PREFIX)
        await (self._content if inside else self._app)(scope, receive, send)
