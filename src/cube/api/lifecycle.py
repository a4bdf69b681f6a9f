"""``/sandboxes/{id}/…``: timeout, connect, pause, resume."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from cube.api.openapi import failures
from cube.api.schemas.base import respond
from cube.api.schemas.requests import Connect, Pause, Refresh, Resume, SetTimeout
from cube.api.schemas.sandboxes import ConnectedSandbox
from cube.api.views import Views
from cube.master.sandboxes.service import SandboxService
from cube.model.sandbox import OnTimeout, PauseMode


class LifecycleRoutes:
    """The routes, over a service."""

    def __init__(self, service: SandboxService, views: Views, default_timeout: int) -> None:
        self._service = service
        self._views = views
        self._default_timeout = default_timeout

    def router(self) -> APIRouter:
        """The routes as FastAPI takes them."""
        router = APIRouter(tags=["lifecycle"])
        self._add_deadlines(router)
        self._add_connects(router)
        self._add_pauses(router)
        return router

    def _add_deadlines(self, router: APIRouter) -> None:
        options: dict[str, Any] = {"methods": ["POST"], "status_code": 204, "responses": failures(404, 409, 413)}
        router.add_api_route("/sandboxes/{sandbox_id}/timeout", self.set_timeout, **options)
        router.add_api_route("/sandboxes/{sandbox_id}/refreshes", self.refresh, **options)

    def _add_connects(self, router: APIRouter) -> None:
        resumed = {"model": ConnectedSandbox, "description": "It was paused and runs again."}
        options: dict[str, Any] = {
            "methods": ["POST"],
            "response_model": ConnectedSandbox,
            "response_description": "It was running.",
            "responses": {201: resumed, **failures(404, 409, 413, 501, 503)},
        }
        for number, path in enumerate(("/v2/sandboxes/{sandbox_id}/connect", "/sandboxes/{sandbox_id}/connect")):
            router.add_api_route(path, self.connect, operation_id=f"connect_v{2 - number}", **options)

    def _add_pauses(self, router: APIRouter) -> None:
        router.add_api_route(
            "/sandboxes/{sandbox_id}/pause",
            self.pause,
            methods=["POST"],
            status_code=204,
            responses=failures(404, 409, 413, 501, 503),
        )
        router.add_api_route(
            "/sandboxes/{sandbox_id}/resume",
            self.resume,
            methods=["POST"],
            status_code=201,
            response_model=ConnectedSandbox,
            responses=failures(404, 409, 413, 501, 503),
        )

    async def set_timeout(self, sandbox_id: str, body: SetTimeout) -> Response:
        """Let the time of a running sandbox be up that many seconds from now, sooner or later than before."""
        await self._service.set_timeout(sandbox_id, body.timeout)
        return Response(status_code=204)

    async def refresh(self, sandbox_id: str, body: Refresh | None = None) -> Response:
        """Keep a running sandbox for some more seconds; never shortens its time."""
        await self._service.refresh(sandbox_id, (body or Refresh()).duration)
        return Response(status_code=204)

    async def connect(self, sandbox_id: str, body: Connect | None = None) -> Response:
        """Use a sandbox from somewhere else: resumed if it is paused, its time extended if that is needed."""
        body = body or Connect()
        connected = await self._service.connect(sandbox_id, self._timeout(body.timeout), memory=body.memory)
        return respond(self._views.connected(connected.sandbox), 201 if connected.resumed else 200)

    async def pause(self, sandbox_id: str, body: Pause | None = None) -> Response:
        """Pause a running sandbox: files, memory and processes stay as they are, or the files alone."""
        await self._service.pause(sandbox_id, PauseMode.FULL if body is None or body.memory else PauseMode.FILESYSTEM)
        return Response(status_code=204)

    async def resume(self, sandbox_id: str, body: Resume | None = None) -> Response:
        """Let a paused sandbox go on (older clients; newer ones connect)."""
        body = body or Resume()
        sandbox = await self._service.resume(
            sandbox_id, self._timeout(body.timeout), _on_timeout(body.auto_pause), memory=body.memory
        )
        return respond(self._views.connected(sandbox), 201)

    def _timeout(self, seconds: int | None) -> int:
        return self._default_timeout if seconds is None else seconds


def _on_timeout(auto_pause: bool | None) -> OnTimeout | None:
    if auto_pause is None:
        return None
    return OnTimeout.PAUSE if auto_pause else OnTimeout.KILL
