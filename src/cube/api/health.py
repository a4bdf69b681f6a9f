"""``/health``: whether the service is up."""

from __future__ import annotations

from fastapi import APIRouter, Response

from cube.api.schemas.base import respond
from cube.api.schemas.common import Health
from cube.master.sandboxes.service import SandboxService

PATH = "/health"


class HealthRoutes:
    """The route, over a service."""

    def __init__(self, service: SandboxService) -> None:
        self._service = service

    def router(self) -> APIRouter:
        """The route as FastAPI takes it."""
        router = APIRouter(tags=["health"])
        router.add_api_route(PATH, self.health, response_model=Health)
        return router

    async def health(self) -> Response:
        """Answers as soon as the service can do what it is asked; needs no API key."""
        return respond(Health(sandboxes=self._service.count()))
