"""``/snapshots`` and what is done with them: take, list, roll back, fork, delete."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from cube.api.disconnect import cancelled_when_client_leaves
from cube.api.errors import error_body
from cube.api.openapi import failures
from cube.api.schemas.base import respond, respond_list
from cube.api.schemas.requests import Fork, Rollback, TakeSnapshot
from cube.api.schemas.snapshots import ForkResult, RolledBack, SnapshotInfo
from cube.api.views import Views, snapshot_info
from cube.master.sandboxes.service import SandboxService
from cube.master.snapshots.shelf import SnapshotQuery
from cube.model.errors import CubeError, InvalidInput, TemplateNotFound, Unsupported
from cube.model.sandbox import Sandbox

#: Longest page, and the page when none is asked for.
_PAGE = 100
#: Seconds that a fork lives when its client names no timeout, as with E2B.
FORK_TIMEOUT = 15
#: CubeSandbox's name for what an answer is about, for its logs.
OPERATION_ID = "x-operation-id"


class SnapshotRoutes:
    """The routes, over a service."""

    def __init__(self, service: SandboxService, views: Views) -> None:
        self._service = service
        self._views = views

    def router(self) -> APIRouter:
        """The routes as FastAPI takes them."""
        router = APIRouter(tags=["snapshots"])
        router.add_api_route("/snapshots", self.page, response_model=list[SnapshotInfo], responses=failures())
        self._add(router, "snapshots", self.take, 201, SnapshotInfo, 404, 409, 413, 429, 501, 507)
        self._add(router, "rollback", self.rollback, 200, RolledBack, 404, 409, 413, 507)
        self._add(router, "fork", self.fork, 201, list[ForkResult], 404, 409, 413, 501, 503, 507)
        router.add_api_route(
            "/templates/{template_id:path}",
            self.delete,
            methods=["DELETE"],
            status_code=204,
            responses=failures(404, 501),
        )
        return router

    def _add(self, router: APIRouter, verb: str, endpoint: Any, status: int, model: Any, *codes: int) -> None:
        router.add_api_route(
            f"/sandboxes/{{sandbox_id}}/{verb}",
            endpoint,
            methods=["POST"],
            status_code=status,
            response_model=model,
            responses=failures(*codes),
        )

    async def page(
        self,
        sandbox_id: Annotated[
            str | None, Query(alias="sandboxID", max_length=40, description="Only those of this sandbox.")
        ] = None,
        name: Annotated[
            str | None, Query(max_length=400, description="An id, `name:tag`, or a name with all its tags.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=_PAGE)] = _PAGE,
        next_token: Annotated[str | None, Query(alias="nextToken", max_length=128)] = None,
    ) -> Response:
        """Snapshots, newest first. The header `x-next-token` leads to the next page."""
        query = SnapshotQuery(sandbox_id or None, name or None, limit, next_token or None)
        page = self._service.snapshots.page(query)
        headers = {"x-next-token": page.next_token} if page.next_token is not None else None
        return respond_list([snapshot_info(snapshot) for snapshot in page.snapshots], headers)

    async def take(self, sandbox_id: str, body: TakeSnapshot | None = None) -> Response:
        """Capture a running or paused sandbox, which goes on. Its processes stand still for some milliseconds."""
        body = body or TakeSnapshot()
        snapshot = await self._service.snapshots.take(sandbox_id, body.name or None, memory=body.memory)
        return respond(snapshot_info(snapshot), 201)

    async def rollback(self, sandbox_id: str, body: Rollback) -> Response:
        """Make a running sandbox what a snapshot holds: same id and tokens; its processes and connections end."""
        snapshot = await self._service.snapshots.rollback(sandbox_id, body.snapshot_id)
        answer = RolledBack(sandbox_id=sandbox_id, snapshot_id=snapshot.snapshot_id, operation_id=_operation_id())
        return respond(answer)

    async def fork(self, request: Request, sandbox_id: str, body: Fork | None = None) -> Response:
        """Start sandboxes that begin as this one is now. It goes on; each fork succeeds or fails by itself."""
        body = body or Fork()
        timeout = FORK_TIMEOUT if body.timeout is None else body.timeout
        async with cancelled_when_client_leaves(request):
            results = await self._service.fork(sandbox_id, body.count, timeout)
        return respond_list([self._fork_result(result) for result in results], status=201)

    async def delete(self, template_id: str) -> Response:
        """Delete a snapshot or a template that clients have built, by id or name. Sandboxes that came of it go on."""
        snapshots = self._service.snapshots
        if self._service.builds.find(template_id) is not None:
            await self._service.builds.delete(template_id)
            return Response(status_code=204)
        if snapshots.find(template_id) is None:
            raise _no_snapshot(self._service, template_id)
        await snapshots.delete(template_id)
        return Response(status_code=204, headers={OPERATION_ID: _operation_id()})

    def _fork_result(self, result: Sandbox | CubeError) -> ForkResult:
        if isinstance(result, CubeError):
            return ForkResult(error=error_body(result))
        return ForkResult(sandbox=self._views.connected(result))


def _no_snapshot(service: SandboxService, reference: str) -> CubeError:
    try:
        template = service.templates.resolve(reference)
    except (InvalidInput, TemplateNotFound):  # in a path, what cannot be an id names nothing
        return TemplateNotFound(reference[:64])
    return Unsupported(f"template {template.template_id} is deleted on the server, with `cube template delete`")


def _operation_id() -> str:
    return str(uuid.uuid4())
