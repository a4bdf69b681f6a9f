"""Builds of templates: what a client asks for, and what has become of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from cube.model.snapshot import Snapshot
from cube.model.template import StartCommand

#: Names the files of a COPY step; made by the client of their content.
FILES_HASH = re.compile(r"[0-9a-f]{64}")
TAG = re.compile(r"[A-Za-z0-9._-]{1,128}")
BUILD_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: What a failure is about that is of no step: what comes before the first one, and after the last one.
BASE_STEP, FINAL_STEP = "base", "finalize"


class BuildStatus(StrEnum):
    """How far a build has come."""

    #: Nothing has been asked of it yet; files may be uploaded.
    WAITING = "waiting"
    BUILDING = "building"
    READY = "ready"
    ERROR = "error"


class StepKind(StrEnum):
    """What a step does."""

    RUN = "RUN"
    COPY = "COPY"
    ENV = "ENV"
    WORKDIR = "WORKDIR"
    USER = "USER"


@dataclass(frozen=True, slots=True)
class Step:
    """One step, with its arguments as E2B's clients put them.

    ``RUN command [user]``; ``COPY source destination [owner [mode]]``; ``ENV name value …``; ``WORKDIR path``;
    ``USER name``.
    """

    kind: StepKind
    args: tuple[str, ...]
    #: The upload of a COPY step.
    files_hash: str = ""
    #: Carry it out even where its result is known, and so everything after it.
    force: bool = False

    def __str__(self) -> str:
        return f"{self.kind.value} {' '.join(arg for arg in self.args if arg)}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a template is to be made. One of the first two is given."""

    from_template: str = ""
    from_image: str = ""
    steps: tuple[Step, ...] = ()
    start: StartCommand | None = None
    #: Carry out every step.
    force: bool = False


@dataclass(frozen=True, slots=True)
class Wishes:
    """Sizes that were asked for; ``None`` takes those of what the build starts from. In MiB where it is memory or
    disk."""

    cpu_count: int | None = None
    memory_mb: int | None = None
    #: What must be free for a sandbox to write.
    free_disk_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a build has failed, and in which step (its number from 1 on, or one of the two of no step)."""

    message: str
    step: str = ""


@dataclass(frozen=True, slots=True)
class Build:
    """One build of a template."""

    #: A UUID.
    build_id: str
    template_id: str
    created_at: datetime
    updated_at: datetime
    #: Those that it gets once it is ready.
    tags: tuple[str, ...]
    wishes: Wishes = field(default_factory=Wishes)
    status: BuildStatus = BuildStatus.WAITING
    failure: Failure | None = None
    #: What sandboxes are created from, once it is ready.
    result: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class BuiltTemplate:
    """A template that clients have built, or are about to. What it is made of are its builds."""

    template_id: str
    name: str
    created_at: datetime
    public: bool = False


@dataclass(frozen=True, slots=True)
class Tag:
    """A name for one build of a template. A reference without one means ``default``."""

    template_id: str
    tag: str
    build_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class BuildLine:
    """A line of a build's log; ``step`` as in :class:`Failure`."""

    at: datetime
    level: str
    message: str
    step: str = ""
