"""``/templates`` and what belongs to building them: builds, uploads, logs, tags."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response

from cube.api.build_files import PREFIX
from cube.api.build_views import build_line, build_state
from cube.api.openapi import failures
from cube.api.schemas import builds as schemas
from cube.api.schemas.base import respond, respond_list
from cube.api.steps import recipe_of
from cube.master.builds.service import BuildService
from cube.model.builds import FILES_HASH, Wishes
from cube.model.errors import InvalidInput

#: Most lines of a log in one answer.
_PAGE = 100
_SCHEMES = "http", "https"
_HOST = re.compile(r"[A-Za-z0-9.\-_:\[\]]{1,255}")
_Level = Literal["debug", "info", "warn", "error"]
_FilesHash = Annotated[str, Path(pattern=f"^{FILES_HASH.pattern}$")]


class BuildRoutes:
    """The routes, over a service. They come before those of templates, whose ids may hold anything."""

    def __init__(self, builds: BuildService) -> None:
        self._builds = builds

    def router(self) -> APIRouter:
        """The routes as FastAPI takes them."""
        router = APIRouter(tags=["template builds"])
        self._add_builds(router)
        router.add_api_route(
            "/templates/{template_id:path}/tags",
            self.tags,
            response_model=list[schemas.TemplateTag],
            responses=failures(404),
        )
        router.add_api_route(
            "/templates/tags",
            self.assign_tags,
            methods=["POST"],
            status_code=201,
            response_model=schemas.AssignedTags,
            responses=failures(404, 413),
        )
        router.add_api_route(
            "/templates/tags", self.remove_tags, methods=["DELETE"], status_code=204, responses=failures(404, 413)
        )
        for path in ("/v2/templates/{template_id:path}", "/templates/{template_id:path}"):
            router.add_api_route(
                path,
                self.update,
                methods=["PATCH"],
                response_model=schemas.UpdatedTemplate,
                responses=failures(404, 413),
            )
        return router

    def _add_builds(self, router: APIRouter) -> None:
        requested: dict[str, Any] = {"methods": ["POST"], "status_code": 202}
        for path in ("/v3/templates", "/v2/templates"):
            router.add_api_route(
                path,
                self.request,
                response_model=schemas.RequestedBuild,
                responses=failures(409, 413, 429, 501, 507),
                **requested,
            )
        build = "/templates/{template_id:path}/builds/{build_id}"
        router.add_api_route(f"/v2{build}", self.begin, responses=failures(404, 409, 413, 501), **requested)
        router.add_api_route(f"{build}/status", self.state, response_model=schemas.BuildState, responses=failures(404))
        router.add_api_route(f"{build}/logs", self.logs, response_model=schemas.BuildLogs, responses=failures(404))
        router.add_api_route(
            "/templates/{template_id:path}/files/{files_hash}",
            self.file,
            status_code=201,
            response_model=schemas.FileUpload,
            responses=failures(404),
        )

    async def request(self, body: schemas.NewBuild) -> Response:
        """Begin with a build of a template, which is new or gets another build."""
        name = body.name or body.alias
        if not name:
            raise InvalidInput("name is missing", field="name")
        wishes = Wishes(body.cpu_count, body.memory_mb, body.min_free_disk_mb)
        build = await self._builds.request(name, body.tags or (), wishes)
        template = self._builds.get(build.template_id).template
        answer = schemas.RequestedBuild(
            template_id=template.template_id,
            build_id=build.build_id,
            public=template.public,
            names=[template.name],
            tags=list(build.tags),
            aliases=[template.name],
        )
        return respond(answer, 202)

    async def file(self, request: Request, template_id: str, files_hash: _FilesHash) -> Response:
        """Whether the files of a COPY step are here, and where to send them to."""
        self._builds.get(template_id)
        uploads = self._builds.uploads
        url = f"{_origin(request)}{PREFIX}{files_hash}?token={uploads.link(files_hash)}"
        return respond(schemas.FileUpload(present=uploads.has(files_hash), url=url), 201)

    async def begin(self, template_id: str, build_id: str, body: schemas.StartBuild) -> Response:
        """Carry a build out. Its status tells how it goes on."""
        await self._builds.begin(template_id, build_id, recipe_of(body))
        return Response(status_code=202)

    async def state(
        self,
        template_id: str,
        build_id: str,
        offset: Annotated[int, Query(alias="logsOffset", ge=0, le=2**31 - 1)] = 0,
        limit: Annotated[int, Query(ge=0, le=_PAGE)] = _PAGE,
        level: _Level = "debug",
    ) -> Response:
        """How far a build is, and its log from a line on."""
        lines = self._builds.lines(template_id, build_id, level)
        build = self._builds.get(template_id).build(build_id)
        return respond(build_state(build, lines[offset : offset + limit]))

    async def logs(
        self,
        template_id: str,
        build_id: str,
        cursor: Annotated[int | None, Query(ge=0, le=2**53, description="Milliseconds since 1970.")] = None,
        limit: Annotated[int, Query(ge=0, le=_PAGE)] = _PAGE,
        direction: Literal["forward", "backward"] = "forward",
        level: _Level = "debug",
    ) -> Response:
        """The log of a build, from a moment on or back."""
        lines = list(self._builds.lines(template_id, build_id, level))
        if direction == "backward":
            lines.reverse()
        if cursor is not None:
            forward = direction == "forward"
            lines = [line for line in lines if (line.at.timestamp() * 1000 >= cursor) is forward]
        return respond(schemas.BuildLogs(logs=[build_line(line) for line in lines[:limit]]))

    async def update(self, template_id: str, body: schemas.UpdateTemplate) -> Response:
        """Note who may use a template."""
        template = self._builds.get(template_id).template
        if body.public is not None:
            template = await self._builds.set_public(template_id, body.public)
        return respond(schemas.UpdatedTemplate(names=[template.name]))

    async def assign_tags(self, body: schemas.AssignTags) -> Response:
        """Give tags to a build; a tag that another build has goes to this one."""
        tag = await self._builds.assign_tags(body.target, body.tags)
        return respond(schemas.AssignedTags(tags=body.tags, build_id=tag.build_id), 201)

    async def remove_tags(self, body: schemas.RemoveTags) -> Response:
        """Take tags off a template. Its builds stay."""
        await self._builds.remove_tags(body.name, body.tags)
        return Response(status_code=204)

    async def tags(self, template_id: str) -> Response:
        """The tags of a template, newest first."""
        found = sorted(self._builds.get(template_id).tags.values(), key=lambda tag: tag.created_at, reverse=True)
        return respond_list(
            [schemas.TemplateTag(tag=tag.tag, build_id=tag.build_id, created_at=tag.created_at) for tag in found]
        )


def _origin(request: Request) -> str:
    """Where the client has found this server: the same leads back to it."""
    scheme = request.headers.get("x-forwarded-proto", request.url.scheme)
    host = request.headers.get("host", "")
    if scheme not in _SCHEMES or _HOST.fullmatch(host) is None:
        raise InvalidInput("the Host header is missing or malformed", field="Host")
    return f"{scheme}://{host}"
