"""``/volumes``: directories that outlive sandboxes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from cube.api.openapi import failures
from cube.api.schemas.base import respond, respond_list
from cube.api.schemas.volumes import ListedVolume, NewVolume, VolumeAndToken
from cube.master.volumes.service import VolumeService
from cube.model.volumes import Volume

_MIB = 1024 * 1024


class VolumeRoutes:
    """The routes, over a service."""

    def __init__(self, volumes: VolumeService) -> None:
        self._volumes = volumes

    def router(self) -> APIRouter:
        """The routes as FastAPI takes them."""
        router = APIRouter(tags=["volumes"])
        router.add_api_route(
            "/volumes",
            self.create_volume,
            methods=["POST"],
            status_code=201,
            response_model=VolumeAndToken,
            responses=failures(409, 413, 429, 507),
        )
        router.add_api_route("/volumes", self.all_volumes, response_model=list[ListedVolume], responses=failures())
        path = "/volumes/{volume_id}"
        router.add_api_route(path, self.get_volume, response_model=VolumeAndToken, responses=failures(404))
        router.add_api_route(
            path, self.delete_volume, methods=["DELETE"], status_code=204, responses=failures(404, 409)
        )
        return router

    async def create_volume(self, body: NewVolume) -> Response:
        """Make an empty volume. Its token opens its content."""
        return respond(await self._with_token(await self._volumes.create(body.name)), 201)

    async def all_volumes(self) -> Response:
        """All volumes, oldest first."""
        return respond_list([ListedVolume(**await self._facts(volume)) for volume in self._volumes.all()])

    async def get_volume(self, volume_id: str) -> Response:
        """A volume, how much of it is used, and the token that opens its content."""
        return respond(await self._with_token(self._volumes.get(volume_id)))

    async def delete_volume(self, volume_id: str) -> Response:
        """Remove a volume with everything in it. Refused while a sandbox has it."""
        await self._volumes.delete(volume_id)
        return Response(status_code=204)

    async def _with_token(self, volume: Volume) -> VolumeAndToken:
        return VolumeAndToken(**await self._facts(volume), token=self._volumes.token(volume))

    async def _facts(self, volume: Volume) -> dict[str, Any]:
        return {
            "volume_id": volume.volume_id,
            "name": volume.name,
            "created_at": volume.created_at,
            "quota_bytes": volume.quota_mb * _MIB,
            "used_bytes": await self._volumes.usage(volume),
        }
