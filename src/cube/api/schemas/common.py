"""Bodies that belong to no resource."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cube.api.schemas.base import ResponseBody


class Error(ResponseBody):
    """Why a request was not carried out, and what to do about it."""

    code: Annotated[int, Field(description="The HTTP status.", examples=[404])]
    message: Annotated[str, Field(examples=["sandbox 'i0' was not found"])]


class VolumeError(ResponseBody):
    """Why a request about the content of a volume was not carried out; E2B writes the code of these as text."""

    code: Annotated[str, Field(description="The HTTP status.", examples=["404"])]
    message: Annotated[str, Field(examples=["path /x was not found"])]


class Health(ResponseBody):
    """The service is up."""

    status: Literal["ok"] = "ok"
    #: Sandboxes that exist on this node.
    sandboxes: int
