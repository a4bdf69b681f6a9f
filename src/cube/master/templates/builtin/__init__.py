"""Definitions of the templates that every instance has."""

from __future__ import annotations

from importlib.resources import files

from cube.master.templates.definition import Definition, parse

#: In the order in which they are built: later ones start from earlier ones.
NAMES = ("base", "code-interpreter-v1")


def load() -> list[Definition]:
    """The definitions beside this file."""
    return [parse(files(__name__).joinpath(f"{name}.toml").read_text()) for name in NAMES]
