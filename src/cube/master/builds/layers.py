"""Names of layers: what a step gives is known by everything that it depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import orjson

from cube.master.builds.surroundings import Surroundings
from cube.model.builds import Recipe, Step

#: Raise it when a step comes to do something else.
_VERSION = 2


@dataclass(frozen=True, slots=True)
class Layer:
    """What was there after a step: files, and what the next step runs with."""

    key: str
    snapshot_id: str
    surroundings: Surroundings
    used_at: datetime


def keys(base: str, steps: tuple[Step, ...]) -> Iterator[str]:
    """The key of each step's layer over a base of this identity."""
    key = _digest("", [_VERSION, base])
    for step in steps:
        key = _digest(key, [step.kind.value, step.args, step.files_hash])
        yield key


def reusable(recipe: Recipe) -> int:
    """How many steps, from the first one on, need not be carried out where their result is known."""
    if recipe.force:
        return 0
    return next((number for number, step in enumerate(recipe.steps) if step.force), len(recipe.steps))


def _digest(before: str, parts: object) -> str:
    return hashlib.sha256(before.encode() + orjson.dumps(parts)).hexdigest()
