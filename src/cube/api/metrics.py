"""What sandboxes use."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response

from cube.api.filters import split_list
from cube.api.openapi import failures
from cube.api.schemas.base import respond, respond_list
from cube.api.schemas.metrics import SandboxesWithMetrics, SandboxMetric
from cube.api.views import metric
from cube.master.sandboxes.service import SandboxService
from cube.model.errors import InvalidInput

#: Most sandboxes in one request.
_MOST = 100
#: The last second that Python's dates know.
_LAST_SECOND = 253_402_300_799

_UnixTime = Annotated[int | None, Query(ge=0, le=_LAST_SECOND, description="Seconds since 1970, inclusive.")]


class MetricsRoutes:
    """The routes, over a service."""

    def __init__(self, service: SandboxService) -> None:
        self._service = service

    def router(self) -> APIRouter:
        """The routes as FastAPI takes them."""
        router = APIRouter(tags=["metrics"])
        router.add_api_route(
            "/sandboxes/metrics", self.of_many, response_model=SandboxesWithMetrics, responses=failures()
        )
        router.add_api_route(
            "/sandboxes/{sandbox_id}/metrics",
            self.of_one,
            response_model=list[SandboxMetric],
            responses=failures(404),
        )
        return router

    async def of_many(self, sandbox_ids: Annotated[list[str], Query(description="Joined by commas.")]) -> Response:
        """The newest metric of several sandboxes; those that do not exist are left out."""
        wanted = split_list(sandbox_ids)
        if len(wanted) > _MOST:
            raise InvalidInput(f"sandbox_ids must not be more than {_MOST}", field="sandbox_ids")
        samples = await self._service.metrics_of_many(wanted)
        return respond(SandboxesWithMetrics(sandboxes={key: metric(sample) for key, sample in samples.items()}))

    async def of_one(self, sandbox_id: str, start: _UnixTime = None, end: _UnixTime = None) -> Response:
        """What a sandbox used, oldest first: the samples of the last minutes, and one taken now."""
        samples = await self._service.metrics(sandbox_id, _moment(start), _moment(end))
        return respond_list([metric(sample) for sample in samples])


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
