"""Rules that all bodies share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from starlette.responses import Response

_CAPITALS = (("Id", "ID"), ("Mb", "MB"))


def wire_name(name: str) -> str:
    """``template_id`` → ``templateID``: camel case, with E2B's capitals at the end."""
    camel = to_camel(name)
    for ending, capital in _CAPITALS:
        if camel.endswith(ending):
            return camel[: -len(ending)] + capital
    return camel


class RequestBody(BaseModel):
    """What a client sends: nothing is converted (``"15"`` is no number), unknown fields are ignored as E2B does."""

    model_config = ConfigDict(alias_generator=wire_name, strict=True, frozen=True, hide_input_in_errors=True)


class ResponseBody(BaseModel):
    """What a client gets."""

    model_config = ConfigDict(alias_generator=wire_name, populate_by_name=True, frozen=True)

    #: Whether ``None`` means that a field is left out, which is what E2B's clients expect of optional fields, or is
    #: sent as ``null``, which they expect of the few that are called nullable.
    omit_none: ClassVar[bool] = True

    def encoded(self) -> bytes:
        """As JSON."""
        return self.__pydantic_serializer__.to_json(self, by_alias=True, exclude_none=self.omit_none)


def respond(body: ResponseBody, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A body as HTTP response."""
    return Response(body.encoded(), status, headers, media_type="application/json")


def respond_list(
    bodies: Sequence[ResponseBody], headers: dict[str, str] | None = None, *, status: int = 200
) -> Response:
    """A list of bodies as HTTP response."""
    content = b"[" + b",".join(body.encoded() for body in bodies) + b"]"
    return Response(content, status, headers, media_type="application/json")
