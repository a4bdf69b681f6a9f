"""Volumes and what is in them, as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from cube.api.schemas.base import RequestBody, ResponseBody
from cube.api.schemas.limits import WHOLE
from cube.model.volumes import VOLUME_NAME
from cube.settings import ID_RANGE

_NAME = Field(max_length=128, pattern=f"^{VOLUME_NAME.pattern}$", examples=["data"])
#: Ids and permission bits in what clients send.
Id = Annotated[int, Field(ge=0, lt=ID_RANGE, description="As sandboxes see it.")]
Mode = Annotated[int, Field(ge=0, le=0o7777, description="Permission bits.", examples=[0o644])]


class NewVolume(RequestBody):
    """A volume to make."""

    name: Annotated[str, _NAME]


class ListedVolume(ResponseBody):
    """A volume in the listing."""

    volume_id: str
    name: str
    created_at: datetime
    #: Most that it can hold, in bytes.
    quota_bytes: int
    #: Left out when the node has lost it.
    used_bytes: int | None = None


class VolumeAndToken(ListedVolume):
    """A volume, and what opens its content."""

    #: To be sent as ``Authorization: Bearer`` with requests for its content.
    token: str


class Metadata(RequestBody):
    """What is to be changed of an entry; what is left out stays."""

    uid: Annotated[Id | None, WHOLE] = None
    gid: Annotated[Id | None, WHOLE] = None
    mode: Annotated[Mode | None, WHOLE] = None


class Entry(ResponseBody):
    """A file or directory of a volume."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "hello.txt",
                    "type": "file",
                    "path": "/hello.txt",
                    "size": 5,
                    "mode": 0o666,
                    "uid": 1000,
                    "gid": 1000,
                    "atime": "2026-01-01T12:00:00Z",
                    "mtime": "2026-01-01T12:00:00Z",
                    "ctime": "2026-01-01T12:00:00Z",
                }
            ]
        }
    )

    name: str
    type: Literal["file", "directory", "symlink", "unknown"]
    path: str
    size: int
    mode: int
    uid: int
    gid: int
    atime: datetime
    mtime: datetime
    ctime: datetime
    #: What a symbolic link says.
    target: str | None = None
