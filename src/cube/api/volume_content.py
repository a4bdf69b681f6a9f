"""``/volumecontent/{volumeID}/…``: the files of volumes, for whoever has a volume's token."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from cube.api.disconnect import CLIENT_CLOSED_REQUEST
from cube.api.openapi import volume_failures
from cube.api.schemas.volumes import Entry, Id, Metadata, Mode
from cube.cubelet.volumes.content import VolumeContent
from cube.envd.files.descriptor import DescriptorFile
from cube.envd.files.download import send_content
from cube.envd.guest import Entry as EnvdEntry
from cube.envd.guest import FileType, OpenedFile
from cube.master.volumes.service import VolumeService
from cube.model.errors import InvalidInput
from cube.model.volumes import DEEPEST, Attributes, VolumeEntry

PREFIX = "/volumecontent/"
_BEARER = HTTPBearer(scheme_name="volumeToken", auto_error=False, description="The token of the volume.")
_JSON = "application/json"
_BINARY = "application/octet-stream"
_Token = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
_Path = Annotated[
    str, Query(min_length=1, max_length=4096, description="From the root of the volume.", examples=["/dir/file.txt"])
]
_Uid = Annotated[Id | None, Query(description="Owner of what is made; 1000 when left out.")]
_Gid = Annotated[Id | None, Query(description="Group of what is made; 1000 when left out.")]
_Mode = Annotated[Mode | None, Query(description="Permission bits of what is made; every right when left out.")]
_CONTENT = {"content": {_BINARY: {"schema": {"type": "string", "format": "binary"}}}}


class VolumeContentRoutes:
    """The routes, over a service."""

    def __init__(self, volumes: VolumeService) -> None:
        self._volumes = volumes

    def router(self) -> APIRouter:
        """The routes as FastAPI takes them."""
        router = APIRouter(tags=["volume content"], prefix=PREFIX + "{volume_id}")
        entry: dict[str, Any] = {"response_model": Entry, "responses": volume_failures()}
        router.add_api_route("/path", self.stat_path, **entry)
        router.add_api_route("/path", self.update_path, methods=["PATCH"], **entry)
        router.add_api_route(
            "/path", self.remove_path, methods=["DELETE"], status_code=204, responses=volume_failures()
        )
        router.add_api_route("/dir", self.list_dir, response_model=list[Entry], responses=volume_failures())
        made: dict[str, Any] = {"status_code": 201, "response_model": Entry, "responses": volume_failures(409, 507)}
        router.add_api_route("/dir", self.make_dir, methods=["POST"], **made)
        router.add_api_route(
            "/file", self.read_file, response_class=Response, responses={200: _CONTENT, **volume_failures(503)}
        )
        router.add_api_route("/file", self.write_file, methods=["PUT"], openapi_extra={"requestBody": _CONTENT}, **made)
        return router

    async def stat_path(self, volume_id: str, path: _Path, token: _Token) -> Response:
        """An entry of a volume; a symbolic link itself."""
        return _entry(await self._content(volume_id, token).stat(path))

    async def update_path(self, volume_id: str, path: _Path, body: Metadata, token: _Token) -> Response:
        """Change owner or permissions of an entry."""
        wish = Attributes(body.uid, body.gid, body.mode)
        return _entry(await self._content(volume_id, token).update(path, wish))

    async def remove_path(self, volume_id: str, path: _Path, token: _Token) -> Response:
        """Remove a file, or a directory with all that is in it."""
        await self._content(volume_id, token).remove(path)
        return Response(status_code=204)

    async def list_dir(
        self, volume_id: str, path: _Path, token: _Token, depth: Annotated[int, Query(ge=0, le=DEEPEST)] = 1
    ) -> Response:
        """What is in a directory, by name; each directory is followed by its own entries, as deep as is asked for."""
        entries = await self._content(volume_id, token).entries(path, max(depth, 1))
        return Response(await asyncio.to_thread(_listing, entries), media_type=_JSON)

    async def make_dir(
        self,
        volume_id: str,
        path: _Path,
        token: _Token,
        uid: _Uid = None,
        gid: _Gid = None,
        mode: _Mode = None,
        force: bool = False,
    ) -> Response:
        """Make a directory; `force` makes those above it too, and is content with one that is there."""
        content = self._content(volume_id, token)
        return _entry(await content.make_dir(path, Attributes(uid, gid, mode), parents=force), 201)

    async def read_file(self, volume_id: str, path: _Path, token: _Token) -> Response:
        """The content of a file; ranges and conditions are obeyed."""
        return _Download(self._content(volume_id, token), path)

    async def write_file(
        self,
        request: Request,
        volume_id: str,
        path: _Path,
        token: _Token,
        uid: _Uid = None,
        gid: _Gid = None,
        mode: _Mode = None,
        force: bool = False,
    ) -> Response:
        """Make a file, which is seen when it is complete; `force` replaces one that is there, and makes directories."""
        content = self._content(volume_id, token)
        _require_plain(request)
        try:
            entry = await content.write(path, request.stream(), Attributes(uid, gid, mode), force=force)
        except ClientDisconnect:
            raise HTTPException(CLIENT_CLOSED_REQUEST, "the client closed the connection") from None
        return _entry(entry, 201)

    def _content(self, volume_id: str, token: HTTPAuthorizationCredentials | None) -> VolumeContent:
        return self._volumes.content(volume_id, token.credentials if token else "")


class _Download(Response):
    """Answers with a file, at the speed at which the client takes it."""

    def __init__(self, content: VolumeContent, path: str) -> None:
        super().__init__()
        self._content = content
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        async with self._content.reading(self._path) as (fd, entry):
            await send_content(scope, receive, send, OpenedFile(DescriptorFile(fd), _envd_entry(entry)))


def _require_plain(request: Request) -> None:
    """A body that is kept as it comes must be what it is to be kept as."""
    coding = request.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise InvalidInput("Content-Encoding is not supported here: send the file as it is", field="Content-Encoding")


def _envd_entry(entry: VolumeEntry) -> EnvdEntry:
    """What a download wants to know of a file."""
    return EnvdEntry(
        path=entry.path,
        type=FileType.FILE,
        mode=entry.mode,
        link_mode=entry.mode,
        size=entry.size,
        mtime_ns=int(entry.mtime.timestamp() * 1_000_000) * 1000,
        uid=entry.uid,
        gid=entry.gid,
        owner="",
        group="",
    )


def _entry(entry: VolumeEntry, status: int = 200) -> Response:
    return Response(orjson.dumps(_fields(entry)), status, media_type=_JSON)


def _listing(entries: Sequence[VolumeEntry]) -> bytes:
    return orjson.dumps([_fields(entry) for entry in entries])


def _fields(entry: VolumeEntry) -> dict[str, object]:
    fields: dict[str, object] = {
        "name": entry.name,
        "type": entry.type.value,
        "path": entry.path,
        "size": entry.size,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "atime": entry.atime,
        "mtime": entry.mtime,
        "ctime": entry.ctime,
    }
    return fields if entry.target is None else {**fields, "target": entry.target}
