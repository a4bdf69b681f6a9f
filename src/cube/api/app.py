"""The application: all routes, at the root as E2B has them and under ``/cubeapi/v1`` as CubeSandbox has them."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, FastAPI

from cube.api import errors, health, openapi
from cube.api.health import HealthRoutes
from cube.api.lifecycle import LifecycleRoutes
from cube.api.metrics import MetricsRoutes
from cube.api.middleware import Authentication, BodyLimit, RequestIds
from cube.api.sandboxes import SandboxRoutes
from cube.api.templates import TemplateRoutes
from cube.api.views import Views
from cube.master.sandboxes.service import SandboxService
from cube.settings import Settings

CUBE_PREFIX = "/cubeapi/v1"
#: Largest body of a request.
BODY_LIMIT = 1024 * 1024

_DESCRIPTION = "Sandboxes for AI agents: E2B's API, and what CubeSandbox adds to it."


def create_api(service: SandboxService, settings: Settings) -> FastAPI:
    """CubeAPI over a running service; an ASGI application."""
    app = FastAPI(
        title="CubeAPI", version=version("cubesandbox-server"), description=_DESCRIPTION, redirect_slashes=False
    )
    for router in _routers(service, settings):
        app.include_router(router)
        app.include_router(router, prefix=CUBE_PREFIX, include_in_schema=False)
    errors.install(app)
    openapi.install(app, settings.max_timeout)
    _add_middleware(app, settings.api_key)
    return app


def _routers(service: SandboxService, settings: Settings) -> list[APIRouter]:
    views = Views(client_id=settings.instance, domain=settings.public_domain, isolation=service.isolation)
    return [
        MetricsRoutes(service).router(),
        SandboxRoutes(service, views, settings.default_timeout).router(),
        LifecycleRoutes(service, views, settings.default_timeout).router(),
        TemplateRoutes(service.templates).router(),
        HealthRoutes(service).router(),
    ]


def _add_middleware(app: FastAPI, api_key: str) -> None:
    """The last one added is the first one that a request meets."""
    app.add_middleware(BodyLimit, limit=BODY_LIMIT)
    if api_key:
        open_paths = frozenset({health.PATH, CUBE_PREFIX + health.PATH})
        app.add_middleware(Authentication, api_key=api_key, open_paths=open_paths)
    app.add_middleware(RequestIds)
