"""From the steps that clients send to a recipe."""

from __future__ import annotations

from cube.api.schemas.builds import BuildStep, StartBuild
from cube.model.builds import Recipe, Step, StepKind
from cube.model.errors import InvalidInput
from cube.model.template import StartCommand

#: Fewest and most arguments of a step; ENV takes pairs.
_ARGUMENTS = {
    StepKind.RUN: (1, 2),
    StepKind.COPY: (2, 4),
    StepKind.WORKDIR: (1, 1),
    StepKind.USER: (1, 2),
    StepKind.ENV: (2, 2048),
}


def recipe_of(body: StartBuild) -> Recipe:
    """What a body asks for; raises ``InvalidInput`` that names the step."""
    start = StartCommand(body.start_cmd or "", body.ready_cmd or "")
    steps = tuple(_step(number, step) for number, step in enumerate(body.steps or (), 1))
    return Recipe(
        from_template=body.from_template or "",
        from_image=body.from_image or "",
        steps=steps,
        start=start if start != StartCommand() else None,
        force=bool(body.force),
    )


def _step(number: int, step: BuildStep) -> Step:
    kind = StepKind(step.type)
    least, most = _ARGUMENTS[kind]
    if not least <= len(step.args) <= most or (kind is StepKind.ENV and len(step.args) % 2):
        raise InvalidInput(f"step {number}: {kind} does not take {len(step.args)} arguments", field="steps.args")
    if kind is StepKind.ENV and any(not name or "=" in name for name in step.args[::2]):
        raise InvalidInput(f"step {number}: names of variables are not empty and hold no `=`", field="steps.args")
    if kind is StepKind.COPY and not step.files_hash:
        raise InvalidInput(f"step {number}: filesHash is missing", field="steps.filesHash")
    if kind is not StepKind.ENV and not step.args[0]:
        raise InvalidInput(f"step {number}: the first argument is empty", field="steps.args")
    return Step(kind, tuple(step.args), step.files_hash or "", bool(step.force))
