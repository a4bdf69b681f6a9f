"""``/cube/ca``: the egress CA. Its certificate is for everybody, its key for the nodes that sign with it."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from cube.api.openapi import failures
from cube.egress.ca import CERTIFICATE, KEY
from cube.model.errors import NotFound, PermissionDenied
from cube.settings import Settings

#: Neither asks for an API key: the one needs none, the other asks for something else.
PATHS = (f"/cube/ca/{CERTIFICATE}", f"/cube/ca/{KEY}")
_SCHEME = "bearer "
_BINARY: dict[str, Any] = {"content": {"application/octet-stream": {}}}


class CubeCaRoutes:
    """The routes, over the directory of the authority."""

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.ca_dir
        self._token = settings.node_token

    def router(self) -> APIRouter:
        """The routes as FastAPI takes them. Every other name below is none."""
        router = APIRouter(tags=["cube-ca"])
        answers: dict[int | str, dict[str, Any]] = {
            200: _BINARY,
            206: _BINARY,
            416: {"description": "There is no such range."},
        }
        for path, endpoint, codes in ((PATHS[0], self.certificate, (404,)), (PATHS[1], self.key, (403, 404))):
            responses = {**failures(*codes), **answers}
            router.add_api_route(path, endpoint, response_class=FileResponse, responses=responses)
            router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
        return router

    async def certificate(self) -> Response:
        """The certificate that templates have baked in, in PEM form. Ranges are answered."""
        return _file(self._directory / CERTIFICATE)

    async def key(self, request: Request) -> Response:
        """Its private key, for a node that has `CUBE_NODE_TOKEN` and sends it as `Authorization: Bearer`."""
        if not self._token or not hmac.compare_digest(_token(request), self._token.encode()):
            raise PermissionDenied("the key is for nodes alone: send CUBE_NODE_TOKEN as a bearer token")
        return _file(self._directory / KEY)


def _token(request: Request) -> bytes:
    value = request.headers.get("authorization", "")
    return value[len(_SCHEME) :].encode("utf-8") if value[: len(_SCHEME)].lower() == _SCHEME else b""


def _file(path: Path) -> Response:
    if not path.is_file():
        raise NotFound("there is no egress CA yet: it is made when the service starts")
    return FileResponse(path, media_type="application/octet-stream", headers={"cache-control": "no-store"})
