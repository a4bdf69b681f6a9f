"""From builds of templates to the bodies that clients get."""

from __future__ import annotations

from collections.abc import Sequence

from cube.api.schemas.builds import BuildLogEntry, BuildReason, BuildState
from cube.api.schemas.templates import TemplateBuild, TemplateDetail, TemplateSummary
from cube.api.views import cube_ca
from cube.envd.version import ENVD_VERSION
from cube.master.builds.shelf import Kept
from cube.model.builds import Build, BuildLine, BuildStatus
from cube.model.resources import Resources

_ENDED = BuildStatus.READY, BuildStatus.ERROR


def build_line(line: BuildLine) -> BuildLogEntry:
    """A line of a log."""
    return BuildLogEntry.model_validate(
        {"timestamp": line.at, "message": line.message, "level": line.level, "step": line.step or None}
    )


def build_state(build: Build, lines: Sequence[BuildLine]) -> BuildState:
    """How far a build is, with these lines of its log."""
    failure = build.failure
    reason = None if failure is None else BuildReason(message=failure.message, step=failure.step or None)
    return BuildState(
        template_id=build.template_id,
        build_id=build.build_id,
        status=build.status.value,
        log_entries=[build_line(line) for line in lines],
        reason=reason,
    )


def built_summary(kept: Kept) -> TemplateSummary:
    """A template that clients have built, in a listing."""
    build, resources = kept.shown, _resources(kept.shown)
    below = None if build.result is None else build.result.template
    return TemplateSummary(
        template_id=kept.template.template_id,
        build_id=build.build_id,
        cpu_count=resources.cpu_count,
        memory_mb=resources.memory_mb,
        disk_size_mb=resources.disk_mb,
        public=kept.template.public,
        aliases=[kept.template.name],
        names=[kept.template.name],
        created_at=kept.template.created_at,
        updated_at=build.updated_at,
        build_count=len(kept.builds),
        envd_version=ENVD_VERSION,
        build_status=build.status.value,
        image_size=0 if below is None else below.image_bytes,
        fingerprint="" if build.result is None else build.result.snapshot_id,
        code_interpreter=below is not None and below.code_interpreter,
    )


def built_detail(kept: Kept) -> TemplateDetail:
    """A template that clients have built, with its builds, newest first."""
    result = kept.shown.result
    return TemplateDetail(
        **built_summary(kept).model_dump(),
        builds=[_build(build) for build in reversed(kept.builds.values())],
        cube_ca=cube_ca(None if result is None else result.template.cube_ca),
    )


def _build(build: Build) -> TemplateBuild:
    resources = _resources(build)
    return TemplateBuild(
        build_id=build.build_id,
        status=build.status.value,
        created_at=build.created_at,
        updated_at=build.updated_at,
        finished_at=build.updated_at if build.status in _ENDED else None,
        cpu_count=resources.cpu_count,
        memory_mb=resources.memory_mb,
        disk_size_mb=resources.disk_mb,
        envd_version=ENVD_VERSION,
    )


def _resources(build: Build) -> Resources:
    """What its sandboxes get, as far as that is known."""
    if build.result is not None:
        return build.result.resources
    usual, wishes = Resources(), build.wishes
    return Resources(wishes.cpu_count or usual.cpu_count, wishes.memory_mb or usual.memory_mb, usual.disk_mb)
