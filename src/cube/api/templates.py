"""``/templates``: what sandboxes can be created from."""

from __future__ import annotations

from fastapi import APIRouter, Response

from cube.api.build_views import built_detail, built_summary
from cube.api.openapi import failures
from cube.api.schemas.base import respond, respond_list
from cube.api.schemas.templates import TemplateAlias, TemplateDetail, TemplateSummary
from cube.api.views import template_detail, template_summary
from cube.master.builds.service import BuildService
from cube.master.sandboxes.catalogue import TemplateCatalogue
from cube.model.errors import InvalidInput, TemplateNotFound


class TemplateRoutes:
    """The routes, over the templates of this machine and those that clients have built."""

    def __init__(self, catalogue: TemplateCatalogue, builds: BuildService) -> None:
        self._catalogue = catalogue
        self._builds = builds

    def router(self) -> APIRouter:
        """The routes as FastAPI takes them. Names may hold a slash; the alias comes first, before the id."""
        router = APIRouter(tags=["templates"])
        for path in ("/templates", "/v2/templates"):
            router.add_api_route(path, self.all, response_model=list[TemplateSummary], responses=failures())
        router.add_api_route(
            "/templates/aliases/{alias:path}", self.by_alias, response_model=TemplateAlias, responses=failures(404)
        )
        router.add_api_route(
            "/templates/{template_id:path}", self.get, response_model=TemplateDetail, responses=failures(404)
        )
        return router

    async def all(self) -> Response:
        """The templates of this server, newest first; those that clients have built come first."""
        built = [built_summary(kept) for kept in self._builds.all() if kept.builds]
        return respond_list([*built, *(template_summary(template) for template in self._catalogue.all())])

    async def by_alias(self, alias: str) -> Response:
        """Which template has a name."""
        kept = self._builds.find(alias)
        if kept is not None and alias != kept.template.template_id:
            return respond(TemplateAlias(template_id=kept.template.template_id, public=kept.template.public))
        return respond(TemplateAlias(template_id=self._catalogue.by_alias(alias).template_id))

    async def get(self, template_id: str) -> Response:
        """A template, by id or name."""
        kept = self._builds.find(template_id)
        if kept is not None and kept.builds:
            return respond(built_detail(kept))
        try:
            return respond(template_detail(self._catalogue.resolve(template_id)))
        except InvalidInput:  # in a path, what cannot be an id names nothing
            raise TemplateNotFound(template_id[:64]) from None
