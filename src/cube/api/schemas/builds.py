"""Builds of templates, as clients send and see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import AliasChoices, Field

from cube.api.schemas.base import RequestBody, ResponseBody
from cube.api.schemas.limits import WHOLE
from cube.model.builds import FILES_HASH, TAG
from cube.model.ids import TEMPLATE_REF

#: Longest argument of a step: a program takes strings of up to 128 KiB.
_ARGUMENT = 120_000
_NO_NUL = r"^[^\x00]*$"
_Tags = Annotated[
    list[Annotated[str, Field(pattern=f"^{TAG.pattern}$")]], Field(max_length=64, description="Names of a build.")
]
_Name = Annotated[
    str,
    Field(
        max_length=300,
        description="`name` or `name:tag`.",
        examples=["my-template"],
        json_schema_extra={"pattern": f"^{TEMPLATE_REF.pattern}$"},
    ),
]
_Line = Annotated[str, Field(max_length=_ARGUMENT, pattern=_NO_NUL)]


class NewBuild(RequestBody):
    """A build to begin with."""

    name: _Name | None = None
    alias: Annotated[_Name | None, Field(description="Older name of `name`.")] = None
    tags: _Tags | None = None
    team_id: Annotated[str | None, Field(description="Accepted and ignored: there is one team.")] = None
    cpu_count: Annotated[int | None, Field(ge=1, le=256, description="CPUs of each sandbox."), WHOLE] = None
    memory_mb: Annotated[
        int | None, Field(ge=128, le=1 << 22, description="Memory of each sandbox, in MiB."), WHOLE
    ] = None
    min_free_disk_mb: Annotated[
        int | None,
        Field(
            ge=0,
            le=1 << 24,
            description="What each sandbox can write at least, in MiB.",
            validation_alias=AliasChoices("minFreeDiskMb", "minFreeDiskMB"),
        ),
        WHOLE,
    ] = None


class BuildStep(RequestBody):
    """A step of a build."""

    type: Literal["RUN", "COPY", "ENV", "WORKDIR", "USER"]
    args: Annotated[list[_Line], Field(max_length=2048, default_factory=list, description="By kind of step.")]
    files_hash: Annotated[str | None, Field(pattern=f"^{FILES_HASH.pattern}$", description="Upload of a COPY.")] = None
    force: Annotated[bool | None, Field(description="Carry it out although its result is known.")] = None


class StartBuild(RequestBody):
    """What is to be built. One of `fromImage` and `fromTemplate` is given."""

    from_image: Annotated[str | None, Field(max_length=400, description="An image.")] = None
    from_template: Annotated[str | None, Field(max_length=400, description="Id or name of a template.")] = None
    from_image_registry: Annotated[
        dict[str, Any] | None, Field(repr=False, description="Credentials for the image's registry.")
    ] = None
    force: Annotated[bool | None, Field(description="Carry out every step although its result is known.")] = None
    steps: Annotated[list[BuildStep] | None, Field(max_length=500)] = None
    start_cmd: Annotated[_Line | None, Field(description="Runs in every sandbox.")] = None
    ready_cmd: Annotated[_Line | None, Field(description="Succeeds when a sandbox is ready.")] = None


class RequestedBuild(ResponseBody):
    """A build that waits for its files and steps."""

    template_id: str
    build_id: UUID
    public: bool
    names: list[str]
    tags: list[str]
    aliases: list[str]


class FileUpload(ResponseBody):
    """Where the files of a step go."""

    #: Whether they are here already.
    present: bool
    #: To be PUT to, as an archive of tar that may be packed by gzip.
    url: str


class BuildLogEntry(ResponseBody):
    """A line of a build's log."""

    timestamp: datetime
    message: str
    level: Literal["debug", "info", "warn", "error"]
    step: str | None = None


class BuildReason(ResponseBody):
    """Why a build has failed."""

    message: str
    #: Number of the step, `base`, or `finalize`.
    step: str | None = None
    log_entries: list[BuildLogEntry] = Field(default_factory=list)


class BuildState(ResponseBody):
    """How far a build is, and what it has said."""

    template_id: str
    build_id: UUID
    status: Literal["waiting", "building", "ready", "error"]
    #: Always empty, as E2B's is: see `logEntries`.
    logs: list[str] = Field(default_factory=list)
    log_entries: list[BuildLogEntry]
    reason: BuildReason | None = None


class BuildLogs(ResponseBody):
    """A part of a build's log."""

    logs: list[BuildLogEntry]


class UpdateTemplate(RequestBody):
    """What is to change of a template."""

    public: Annotated[bool | None, Field(description="Noted: there is one team.")] = None


class UpdatedTemplate(ResponseBody):
    """The names of a template."""

    omit_none: ClassVar[bool] = False

    names: list[str]


class AssignTags(RequestBody):
    """Tags to give to a build."""

    target: Annotated[_Name, Field(description="The build: `name:tag`.")]
    tags: _Tags


class RemoveTags(RequestBody):
    """Tags to take off a template."""

    name: _Name
    tags: _Tags


class AssignedTags(ResponseBody):
    """Tags that were given."""

    tags: list[str]
    build_id: UUID


class TemplateTag(ResponseBody):
    """A tag of a template."""

    tag: str
    build_id: UUID
    created_at: datetime
