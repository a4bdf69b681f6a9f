"""Templates as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar
from uuid import UUID

from cube.api.schemas.base import ResponseBody


class TemplateSummary(ResponseBody):
    """A template that sandboxes can be created from."""

    omit_none: ClassVar[bool] = False

    template_id: str
    #: Changes whenever the content does.
    build_id: UUID
    cpu_count: int
    memory_mb: int
    disk_size_mb: int
    public: bool = True
    aliases: list[str]
    names: list[str]
    created_at: datetime
    updated_at: datetime
    created_by: None = None
    #: Usage is not counted: always null and 0, as E2B answers for a default template.
    last_spawned_at: None = None
    spawn_count: int = 0
    build_count: int = 1
    envd_version: str
    build_status: str = "ready"
    #: Size of the read-only image, in bytes.
    image_size: int
    #: Digest over everything that went into the image.
    fingerprint: str
    #: Whether the code interpreter (port 49999) is offered.
    code_interpreter: bool


class TemplateBuild(ResponseBody):
    """How a template came to be."""

    build_id: UUID
    status: str = "ready"
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    cpu_count: int
    memory_mb: int
    disk_size_mb: int
    envd_version: str


class CubeCa(ResponseBody):
    """The certificate of the outbound proxy in a template's image."""

    omit_none: ClassVar[bool] = False

    #: Whether it is in the image; without it HTTPS by egress rules fails in programs.
    baked: bool
    #: SHA-256 of the certificate in DER form, in hexadecimal.
    fingerprint: str | None
    #: Files of the image that have it.
    targets_written: list[str]


class TemplateDetail(TemplateSummary):
    """A template with its builds."""

    builds: list[TemplateBuild]
    cube_ca: CubeCa


class TemplateAlias(ResponseBody):
    """Which template has a name."""

    template_id: str
    public: bool = True
