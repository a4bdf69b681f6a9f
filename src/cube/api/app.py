"""The application: all routes, at the root as E2B has them and under ``/cubeapi/v1`` as CubeSandbox has them."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, FastAPI

from cube.api import cube_ca, errors, health, openapi
from cube.api.authentication import Authentication, RateLimit, TokenBuckets
from cube.api.authority import Authority
from cube.api.build_files import PREFIX as BUILD_FILES
from cube.api.build_files import BuildFileRoutes
from cube.api.builds import BuildRoutes
from cube.api.content_door import ContentDoor
from cube.api.cube_ca import CubeCaRoutes
from cube.api.health import HealthRoutes
from cube.api.lifecycle import LifecycleRoutes
from cube.api.logs import LogRoutes
from cube.api.metrics import MetricsRoutes
from cube.api.middleware import BodyLimit, RequestIds
from cube.api.networks import NetworkRoutes
from cube.api.sandboxes import SandboxRoutes
from cube.api.secrets import SecretRoutes
from cube.api.snapshots import SnapshotRoutes
from cube.api.straight import StraightWay
from cube.api.templates import TemplateRoutes
from cube.api.views import Views
from cube.api.volume_content import PREFIX as VOLUME_CONTENT
from cube.api.volume_content import VolumeContentRoutes
from cube.api.volumes import VolumeRoutes
from cube.master.sandboxes.service import SandboxService
from cube.settings import Settings

CUBE_PREFIX = "/cubeapi/v1"
#: Largest body of a request.
BODY_LIMIT = 1024 * 1024

_DESCRIPTION = "Sandboxes for AI agents: E2B's API, and what CubeSandbox adds to it."


def create_api(service: SandboxService, settings: Settings, authority: Authority | None = None) -> FastAPI:
    """CubeAPI over a running service; an ASGI application.

    ``authority`` is :func:`cube.api.authority.authority` of the same settings. Raises ``ValueError`` when it is missing
    although the settings ask for authentication.
    """
    if authority is None and (settings.api_key or settings.auth_callback_url):
        raise ValueError("the settings ask for authentication: an authority is needed")
    app = FastAPI(
        title="CubeAPI", version=version("cubesandbox-server"), description=_DESCRIPTION, redirect_slashes=False
    )
    views = Views(client_id=settings.instance, domain=settings.public_domain, isolation=service.isolation)
    sandboxes = SandboxRoutes(service, views, settings.default_timeout)
    for router in _routers(service, settings, views, sandboxes):
        app.include_router(router)
        app.include_router(router, prefix=CUBE_PREFIX, include_in_schema=False)
    errors.install(app)
    doors = {VOLUME_CONTENT: _volume_content(service), BUILD_FILES: _build_files(service)}
    openapi.install(app, settings.max_timeout, [route for content in doors.values() for route in content.routes])
    app.add_middleware(StraightWay, routes=sandboxes, prefixes=("", CUBE_PREFIX))
    _add_middleware(app, authority, settings.rate_limit, doors)
    return app


def _volume_content(service: SandboxService) -> FastAPI:
    """The content of volumes: an application of its own, for it asks for other credentials, takes bodies of any size
    and has another form of errors."""
    app = FastAPI(redirect_slashes=False, openapi_url=None)
    app.include_router(VolumeContentRoutes(service.volumes).router())
    errors.install(app, errors.volume_error_response)
    return app


def _build_files(service: SandboxService) -> FastAPI:
    """Uploads for builds: they ask for a link's token, and may be large."""
    app = FastAPI(redirect_slashes=False, openapi_url=None)
    app.include_router(BuildFileRoutes(service.builds.uploads).router())
    errors.install(app)
    return app


def _routers(service: SandboxService, settings: Settings, views: Views, sandboxes: SandboxRoutes) -> list[APIRouter]:
    return [
        MetricsRoutes(service).router(),
        LogRoutes(service).router(),
        sandboxes.router(),
        LifecycleRoutes(service, views, settings.default_timeout).router(),
        NetworkRoutes(service).router(),
        BuildRoutes(service.builds).router(),
        SnapshotRoutes(service, views).router(),
        TemplateRoutes(service.templates, service.builds).router(),
        VolumeRoutes(service.volumes).router(),
        SecretRoutes(service.secrets).router(),
        CubeCaRoutes(settings).router(),
        HealthRoutes(service).router(),
    ]


def _add_middleware(app: FastAPI, authority: Authority | None, rate_limit: int, doors: dict[str, FastAPI]) -> None:
    """The last one added is the first one that a request meets."""
    open_paths = frozenset(prefix + path for prefix in ("", CUBE_PREFIX) for path in (health.PATH, *cube_ca.PATHS))
    app.add_middleware(BodyLimit, limit=BODY_LIMIT)
    if authority is not None and rate_limit:
        app.add_middleware(RateLimit, buckets=TokenBuckets(rate_limit), open_paths=open_paths)
    if authority is not None:
        app.add_middleware(Authentication, authority=authority, open_paths=open_paths)
    for prefix, content in doors.items():
        app.add_middleware(ContentDoor, content=content, prefix=prefix)
    app.add_middleware(RequestIds)
