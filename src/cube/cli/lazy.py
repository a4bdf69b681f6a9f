"""Commands whose modules are loaded when they are asked for: most of what one invocation would load is not for it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class LazyGroup(TyperGroup):
    """A group of commands by name; subclasses say where each is.

    What click hands around is not typed here: typer brings a click of its own, which it does not export.
    """

    #: ``module:name`` of a function or of a ``typer.Typer``, by the command's name, in the order of the help text.
    places: ClassVar[Mapping[str, str]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands."""
        return [*self.places, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, loaded; ``None`` when there is none."""
        place = self.places.get(cmd_name)
        return super().get_command(ctx, cmd_name) if place is None else _load(place, cmd_name)


def _load(place: str, name: str) -> Any:
    module, _, attribute = place.partition(":")
    found: Any = getattr(import_module(module), attribute)
    command: Any
    if isinstance(found, typer.Typer):
        command = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command(name)(found)
        command = typer.main.get_command(alone)
    command.name = name
    return command
