"""``/secrets``: values that are put into requests on their way out of sandboxes. Nothing here tells one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from cube.api.openapi import failures
from cube.api.schemas import secrets as schemas
from cube.api.schemas.base import respond, respond_list
from cube.master.secrets.service import SecretService
from cube.model.secrets import Secret

#: Longest page, and the page when none is asked for.
_PAGE = 100


class SecretRoutes:
    """The routes, over a service."""

    def __init__(self, secrets: SecretService) -> None:
        self._secrets = secrets

    def router(self) -> APIRouter:
        """The routes as FastAPI takes them."""
        router = APIRouter(tags=["secrets"])
        one: dict[str, Any] = {"response_model": schemas.Secret}
        router.add_api_route(
            "/secrets",
            self.create_secret,
            methods=["POST"],
            status_code=201,
            responses=failures(409, 413, 429, 507),
            **one,
        )
        router.add_api_route("/secrets", self.page, response_model=list[schemas.Secret], responses=failures())
        path = "/secrets/{secret_id}"
        router.add_api_route(path, self.get_secret, responses=failures(404), **one)
        router.add_api_route(path, self.update_secret, methods=["POST"], responses=failures(404, 413, 507), **one)
        router.add_api_route(path, self.delete_secret, methods=["DELETE"], status_code=204, responses=failures(404))
        return router

    async def create_secret(self, body: schemas.NewSecret) -> Response:
        """Keep a secret, its first version."""
        secret = await self._secrets.create(body.name, body.value, body.metadata or {})
        return respond(_view(secret), 201)

    async def page(
        self,
        limit: Annotated[int, Query(ge=1, le=_PAGE)] = _PAGE,
        next_token: Annotated[str | None, Query(alias="nextToken", max_length=128)] = None,
    ) -> Response:
        """Secrets, oldest first. The header `x-next-token` leads to the next page."""
        found, token = self._secrets.page(limit, next_token or None)
        return respond_list([_view(secret) for secret in found], {"x-next-token": token} if token else None)

    async def get_secret(self, secret_id: str) -> Response:
        """A secret, by id or name."""
        return respond(_view(self._secrets.get(secret_id)))

    async def update_secret(self, secret_id: str, body: schemas.SecretUpdate) -> Response:
        """Give a secret another value. Sandboxes that use it send the new one from then on."""
        return respond(_view(await self._secrets.update(secret_id, body.value, body.metadata)))

    async def delete_secret(self, secret_id: str) -> Response:
        """Forget a secret. Requests that would carry it are refused from then on."""
        await self._secrets.delete(secret_id)
        return Response(status_code=204)


def _view(secret: Secret) -> schemas.Secret:
    return schemas.Secret(
        secret_id=secret.secret_id,
        name=secret.name,
        current_version=secret.version,
        metadata=secret.metadata,
        created_at=secret.created_at,
        updated_at=secret.updated_at,
    )
