"""``/buildfiles/{hash}``: uploads for builds of templates, for whoever was given a link."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cube.api.disconnect import CLIENT_CLOSED_REQUEST
from cube.api.openapi import failures
from cube.master.builds.uploads import Uploads

PREFIX = "/buildfiles/"
_CONTENT = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


class BuildFileRoutes:
    """The route, over the uploads."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    def router(self) -> APIRouter:
        """The route as FastAPI takes it."""
        router = APIRouter(tags=["template builds"])
        router.add_api_route(
            PREFIX + "{files_hash}",
            self.receive,
            methods=["PUT"],
            status_code=201,
            response_class=Response,
            responses=failures(403, 507),
            openapi_extra={"requestBody": _CONTENT},
        )
        return router

    async def receive(
        self, request: Request, files_hash: str, token: Annotated[str, Query(max_length=128)] = ""
    ) -> Response:
        """Take in the files of a COPY step: an archive of tar, which may be packed by gzip."""
        try:
            await self._uploads.receive(files_hash, token, request.stream())
        except ClientDisconnect:
            raise HTTPException(CLIENT_CLOSED_REQUEST, "the client closed the connection") from None
        return Response(status_code=201)
