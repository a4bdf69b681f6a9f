"""``/sandboxes``: create, list, look at, end."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import AwareDatetime

from cube.api.creation import create_request
from cube.api.credentials import caller, credential
from cube.api.disconnect import cancelled_when_client_leaves
from cube.api.filters import metadata_filter, state_filter
from cube.api.openapi import failures
from cube.api.schemas.base import respond, respond_list
from cube.api.schemas.requests import NewSandbox
from cube.api.schemas.sandboxes import ConnectedSandbox, ListedSandbox, SandboxDetail
from cube.api.views import Views
from cube.master.sandboxes.lifecycle import VisibleState
from cube.master.sandboxes.requests import IdempotencyKey, ListQuery
from cube.master.sandboxes.service import SandboxService

#: Seconds that a sandbox lives when a client of the first version names no timeout; the later ones have a setting.
V1_TIMEOUT = 15
#: Longest page, and the page when none is asked for.
_PAGE = 100
#: What the listing of the first version, which has no pages, returns at most.
_V1_PAGE = 200

_MetadataFilter = Annotated[
    str | None,
    Query(max_length=65536, description="`key=value&…`, keys and values percent-encoded, and the whole once more."),
]
_StateFilter = Annotated[
    list[str],
    Query(
        description="`running`, `paused`, or both joined by a comma.",
        json_schema_extra={"items": {"type": "string", "pattern": "^(running|paused)(,(running|paused))*$"}},
    ),
]

_IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="The same request with the same key, within 24 hours, gives the same sandbox.",
    ),
]


class SandboxRoutes:
    """The routes, over a service."""

    def __init__(self, service: SandboxService, views: Views, default_timeout: int) -> None:
        self._service = service
        self._views = views
        self._default_timeout = default_timeout

    def router(self) -> APIRouter:
        """The routes as FastAPI takes them. The hottest comes first: they are tried in order."""
        router = APIRouter(tags=["sandboxes"])
        creation: dict[str, Any] = {
            "methods": ["POST"],
            "status_code": 201,
            "response_model": ConnectedSandbox,
            "responses": failures(404, 409, 413, 422, 429, 501, 503, 507),
        }
        router.add_api_route("/v2/sandboxes", self.create, summary="Create a sandbox", **creation)
        router.add_api_route("/sandboxes", self.create_v1, summary="Create a sandbox (short default)", **creation)
        router.add_api_route("/v2/sandboxes", self.page, response_model=list[ListedSandbox], responses=failures())
        router.add_api_route("/sandboxes", self.running, response_model=list[ListedSandbox], responses=failures())
        router.add_api_route("/sandboxes/{sandbox_id}", self.get, response_model=SandboxDetail, responses=failures(404))
        router.add_api_route(
            "/sandboxes/{sandbox_id}", self.delete, methods=["DELETE"], status_code=204, responses=failures(404)
        )
        return router

    async def create(self, request: Request, body: NewSandbox, idempotency_key: _IdempotencyKey = None) -> Response:
        """Start a sandbox from a template. It answers when this returns; it lives for 300 s unless told otherwise."""
        return await self._create(request, body, self._default_timeout, idempotency_key)

    async def create_v1(self, request: Request, body: NewSandbox, idempotency_key: _IdempotencyKey = None) -> Response:
        """Start a sandbox from a template. It answers when this returns; it lives for 15 s unless told otherwise."""
        return await self._create(request, body, V1_TIMEOUT, idempotency_key)

    async def page(
        self,
        metadata: _MetadataFilter = None,
        state: _StateFilter = [],  # noqa: B006  FastAPI copies it
        template: Annotated[str | None, Query(max_length=400, description="Id or name of a template.")] = None,
        started_after: Annotated[AwareDatetime | None, Query(alias="startedAfter")] = None,
        order: Literal["asc", "desc"] = "desc",
        limit: Annotated[int, Query(ge=1, le=_PAGE)] = _PAGE,
        next_token: Annotated[str | None, Query(alias="nextToken", max_length=128)] = None,
    ) -> Response:
        """Sandboxes that run or are paused, newest first. The header `x-next-token` leads to the next page."""
        query = ListQuery(
            states=state_filter(state),
            metadata=metadata_filter(metadata),
            template=template,
            started_after=started_after,
            newest_first=order == "desc",
            limit=limit,
            next_token=next_token or None,
        )
        return self._page(query)

    async def running(self, metadata: _MetadataFilter = None) -> Response:
        """Sandboxes that run, newest first, 200 at most."""
        states = frozenset({VisibleState.RUNNING})
        return self._page(ListQuery(states=states, metadata=metadata_filter(metadata), limit=_V1_PAGE))

    async def get(self, sandbox_id: str) -> Response:
        """Everything about a sandbox."""
        return respond(self._views.detail(self._service.get(sandbox_id)))

    async def delete(self, sandbox_id: str) -> Response:
        """End a sandbox, whatever state it is in."""
        await self._service.delete(sandbox_id)
        return Response(status_code=204)

    async def _create(self, request: Request, body: NewSandbox, default_timeout: int, key: str | None) -> Response:
        wanted = create_request(body, default_timeout)
        own_key = None if key is None else IdempotencyKey(key, credential(request.headers).digest)
        async with cancelled_when_client_leaves(request):
            sandbox = await self._service.create(wanted, own_key, caller=caller(request.headers))
        return respond(self._views.connected(sandbox), 201)

    def _page(self, query: ListQuery) -> Response:
        page = self._service.page(query)
        headers = {"x-next-token": page.next_token} if page.next_token is not None else None
        return respond_list([self._views.listed(sandbox) for sandbox in page.sandboxes], headers)
