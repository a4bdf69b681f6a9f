"""``/templates``: what sandboxes can be created from."""

from __future__ import annotations

from fastapi import APIRouter, Response

from cube.api.openapi import failures
from cube.api.schemas.base import respond, respond_list
from cube.api.schemas.templates import TemplateAlias, TemplateDetail, TemplateSummary
from cube.api.views import template_detail, template_summary
from cube.master.sandboxes.catalogue import TemplateCatalogue
from cube.model.errors import InvalidInput, TemplateNotFound


class TemplateRoutes:
    """The routes, over a catalogue."""

    def __init__(self, catalogue: TemplateCatalogue) -> None:
        self._catalogue = catalogue

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
        """The templates of this server, newest first."""
        return respond_list([template_summary(template) for template in self._catalogue.all()])

    async def by_alias(self, alias: str) -> Response:
        """Which template has a name."""
        return respond(TemplateAlias(template_id=self._catalogue.by_alias(alias).template_id))

    async def get(self, template_id: str) -> Response:
        """A template, by id or name."""
        try:
            return respond(template_detail(self._catalogue.resolve(template_id)))
        except InvalidInput:  # in a path, what cannot be an id names nothing
            raise TemplateNotFound(template_id[:64]) from None
